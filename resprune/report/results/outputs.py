"""Results of writing, and what a folder says of how it was made."""

from __future__ import annotations

import platform
import shlex
from dataclasses import asdict
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from resprune.records import ExportOutcome, FinetuneOutcome, PruneOutcome
from resprune.report.results import parts, prunings

LIBRARIES = ("torch", "timm", "torchvision", "numpy", "pillow")
"""What figures and weights depend on besides resprune and Python."""
_PATHS = (
    ("checkpoint", "path"),
    ("teacher", "path"),
    ("data", "spec"),
    ("choice", "spec"),
    ("held_out", "spec"),
)


def made(
    command: str, seed: int, *, threads: int | None = None, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what is added about how a result was made.

    Args:
        command: As it was typed.
        seed: Of everything drawn.
        threads: CPU threads of torch.
        config: Name, hash and options of the file that ``--config`` named.
    """
    libraries = {name: version(name) for name in LIBRARIES}
    versions = {"python": platform.python_version()} | libraries
    return {
        "made": {"command": command, "seed": seed, "versions": versions, "threads": threads, "config": config}
    }


def command_of(made: dict[str, Any] | None) -> str:
    """Return the command of what `made` returned; empty where there is none."""
    return (made or {}).get("made", {}).get("command", "")


def export(outcome: ExportOutcome) -> dict[str, Any]:
    """Return what ``resprune export --json`` prints."""
    origin, result = outcome.origin, outcome.result
    restored = {
        "blocks": result.blocks - origin.blocks,
        "parameters": result.parameters - origin.parameters,
        "macs": result.macs - origin.macs,
    }
    return parts.head("export", origin) | {
        "format": outcome.format,
        "zeroed": restored if restored["blocks"] else None,
        "folded": outcome.folded,
        "merged": outcome.merged,
        "verified": asdict(outcome.verified) | {"samples": outcome.samples},
        "output": {"folder": outcome.folder, "files": list(outcome.files)},
    }


def provenance(outcome: PruneOutcome | FinetuneOutcome) -> dict[str, Any]:
    """Return what a network's config says of its making."""
    origin = outcome.origin
    made: dict[str, Any] = {
        "version": version("resprune"),
        "torch": version("torch"),
        "origin": {
            "name": PurePath(origin.origin.path).name,
            "sha256": origin.origin.sha256,
            "architecture": origin.architecture.to_json(),
        },
    }
    if isinstance(outcome, FinetuneOutcome):
        return made | {"recipe": outcome.recipe.to_json(), "heads": outcome.heads, "epoch": outcome.best.epoch}
    made |= {"plan": prunings.plan(outcome.plan)}
    return made | {"recovery": [prunings.recovery(tried) for tried in outcome.recovered]}


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose paths are names only: a folder that travels says nothing of this machine."""
    report = dict(report)
    for key, name in _PATHS:
        if report.get(key):
            report[key] = report[key] | {name: PurePath(report[key][name]).name}
    if report.get("made"):
        how = report["made"]
        words = shlex.join(_name_of(word) for word in shlex.split(how["command"]))
        report["made"] = how | {"command": words}
        if how["config"] is not None:
            config = how["config"]
            given = {key: _portable_value(value) for key, value in config["options"].items()}
            report["made"] |= {"config": config | {"file": _name_of(config["file"]), "options": given}}
    return report


def _name_of(word: str) -> str:
    """Return a word of a command, a path in it cut to its name."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (PurePath(value).name if "/" in value else value)


def _portable_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_name_of(item) for item in value]
    return _name_of(value) if isinstance(value, str) else value
