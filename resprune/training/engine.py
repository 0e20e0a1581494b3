"""Hugging Face Accelerate as the engine: which device, how many processes, which trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from resprune.errors import UsageError


def engine(device: str = "auto", trackers: Sequence[str] = (), place: str | Path | None = None) -> Accelerator:
    """Return an accelerator for the best device, and for the processes of the launcher if there is one.

    Precision is the loop's own affair: Accelerate keeps its choice for the life of a process, and a
    library's caller may train twice.

    Args:
        device: ``auto`` or ``cpu``.
        trackers: Names of programs that log the figures.
        place: Folder that they may write to.

    Raises:
        UsageError: where a tracker is unknown or not installed, or the device is another.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"training on {device!r} is not chosen by name",
            hint="use --device auto or cpu, and CUDA_VISIBLE_DEVICES to choose a GPU",
        )
    there = {str(tracker) for tracker in get_available_trackers()}
    for name in trackers:
        known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
        if name not in known:
            raise UsageError(f"no tracker {name!r}", hint=f"choose from {', '.join(known)}")
        if name not in there:
            raise UsageError(f"the tracker {name} is not installed", hint=f"pip install {name}")
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        log_with=list(trackers) or None,
        project_dir=str(place) if trackers else None,
    )


def start_trackers(on: Accelerator, recipe: Mapping[str, Any]) -> None:
    """Begin to log, with the recipe as the run's parameters."""
    if on.log_with:
        plain = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in recipe.items()
        }
        on.init_trackers("resprune", plain)
