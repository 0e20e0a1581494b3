"""Post-hoc pruning and analysis of trained ResNets.

The names below are imported on first use, so that ``import resprune`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from resprune.checking import check as check
    from resprune.choosing import Choice as Choice
    from resprune.comparing import bench as bench
    from resprune.comparing import compare as compare
    from resprune.errors import ResPruneError as ResPruneError
    from resprune.exploring import frontier as frontier
    from resprune.exporting.formats import export as export
    from resprune.finetuning import Finetuned as Finetuned
    from resprune.finetuning import finetune as finetune
    from resprune.finetuning import heal as heal
    from resprune.pipeline import Pruned as Pruned
    from resprune.pipeline import analyze as analyze
    from resprune.pipeline import choose_for as choose_for
    from resprune.pipeline import evaluate as evaluate
    from resprune.pipeline import load as load
    from resprune.pipeline import prune as prune
    from resprune.pipeline import save as save
    from resprune.pipeline import select as select
    from resprune.pipeline import wrap as wrap
    from resprune.records import RECIPES as RECIPES
    from resprune.records import Analysis as Analysis
    from resprune.records import Budget as Budget
    from resprune.records import Frontier as Frontier
    from resprune.records import Limits as Limits
    from resprune.records import Preprocessing as Preprocessing
    from resprune.records import Recipe as Recipe
    from resprune.report.plots import draw as draw

_WHERE = {
    "ResPruneError": "resprune.errors",
    "RECIPES": "resprune.records",
    "Analysis": "resprune.records",
    "Budget": "resprune.records",
    "Choice": "resprune.choosing",
    "Finetuned": "resprune.finetuning",
    "Frontier": "resprune.records",
    "Limits": "resprune.records",
    "Preprocessing": "resprune.records",
    "Recipe": "resprune.records",
    "Pruned": "resprune.pipeline",
    "analyze": "resprune.pipeline",
    "bench": "resprune.comparing",
    "choose_for": "resprune.pipeline",
    "check": "resprune.checking",
    "compare": "resprune.comparing",
    "draw": "resprune.report.plots",
    "evaluate": "resprune.pipeline",
    "export": "resprune.exporting.formats",
    "finetune": "resprune.finetuning",
    "frontier": "resprune.exploring",
    "heal": "resprune.finetuning",
    "load": "resprune.pipeline",
    "prune": "resprune.pipeline",
    "save": "resprune.pipeline",
    "select": "resprune.pipeline",
    "wrap": "resprune.pipeline",
}

__all__ = [
    "RECIPES",
    "Analysis",
    "Budget",
    "Choice",
    "Finetuned",
    "Frontier",
    "Limits",
    "Preprocessing",
    "Pruned",
    "Recipe",
    "ResPruneError",
    "__version__",
    "analyze",
    "bench",
    "check",
    "choose_for",
    "compare",
    "draw",
    "evaluate",
    "export",
    "finetune",
    "frontier",
    "heal",
    "load",
    "prune",
    "save",
    "select",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("resprune")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'resprune' has no attribute {name!r}")
