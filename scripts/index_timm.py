"""Write `resprune/families/timm_index.json`: names, shapes and structure of timm's residual networks.

    python scripts/index_timm.py

Run it when a newer timm knows more networks; `tests/test_timm.py` builds every one of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from resprune.errors import ArchitectureError
from resprune.families.timm_index import MODULES, Outline, digest
from resprune.families.timm_nets import TimmNets
from resprune.records import Architecture

TARGET = Path(__file__).parents[1] / "resprune" / "families" / "timm_index.json"

NOT_RESIDUAL = r"repvgg|mobileone"
"""Sums of parallel convolutions, without a skip connection; they share a module with networks that have one."""


def main() -> None:
    """Build every network on the meta device and write what it looks like."""
    names = [(name, module) for module in MODULES for name in timm.list_models(module=module)]
    rows = [row(name, module) for name, module in names if not re.match(NOT_RESIDUAL, name)]
    lines = ",\n".join(json.dumps(row) for row in rows)
    TARGET.write_text(f'{{"timm": "{timm.__version__}", "networks": [\n{lines}\n]}}\n', encoding="utf-8")


def row(name: str, module: str) -> dict[str, Any]:
    """Return one network's row."""
    network = build(name)
    outline = Outline.of({key: tensor.shape for key, tensor in network.state_dict().items()})
    assert outline is not None, name
    uniform = all(len(set(stage[1:])) <= 1 for stage in outline.stages)
    try:
        two_each = build(name, layers=[2] * len(outline.stages)) if uniform else None
    except TypeError:  # no such argument: the depth comes from a table of timm's own
        two_each = None
    return {
        "name": name,
        "module": module,
        "blocks": [len(stage) for stage in outline.stages],
        "free": two_each is not None,
        "readable": readable(network, len(outline.stages)),
        "outer": outline.outer,
        "stages": [" ".join(stage if len(set(stage[1:])) > 1 else stage[:2]) for stage in outline.stages],
        "kind": kind(network if two_each is None else two_each),
    }


def readable(network: nn.Module, stages: int) -> bool:
    """Whether the adapter can take every block apart."""
    try:
        TimmNets().split(network, Architecture("timm", "", ("",) * stages))
    except ArchitectureError:
        return False
    return True


def build(name: str, **arguments: Any) -> nn.Module:
    """Return one of timm's networks without numbers."""
    with torch.device("meta"):
        return timm.create_model(name, num_classes=1000, **arguments)


def kind(network: nn.Module) -> str:
    """Return a digest of all that a network computes."""
    leaves = ((path, module) for path, module in network.named_modules() if not list(module.children()))
    return digest(f"{type(module).__qualname__} {path}: {module}" for path, module in leaves)


if __name__ == "__main__":
    main()
