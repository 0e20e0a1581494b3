"""Hugging Face Accelerate as the engine: which device, how many processes, which trackers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedType, GradientAccumulationPlugin, parse_flag_from_env

from resprune.devices import trainable
from resprune.errors import UsageError


def engine(device: str = "auto", trackers: Sequence[str] = (), place: str | Path | None = None) -> Accelerator:
    """Return an accelerator for a device, or for the processes of the launcher if there is one.

    Precision is the loop's own affair: Accelerate keeps its choice for the life of a process, and a
    library's caller may train twice.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, or ``cuda:1`` where there is no launcher.
        trackers: Names of programs that log the figures.
        place: Folder that they may write to.

    Raises:
        UsageError: where a tracker is unknown or not installed, the device cannot be had, or the program has
            an accelerator of another kind.
    """
    there = {str(tracker) for tracker in get_available_trackers()}
    for name in trackers:
        known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
        if name not in known:
            raise UsageError(f"no tracker {name!r}", hint=f"choose from {', '.join(known)}")
        if name not in there:
            raise UsageError(f"the tracker {name} is not installed", hint=f"pip install {name}")
    own = _own_device(device)
    state = PartialState(cpu=own.type == "cpu")  # one for the life of a process, whatever is asked for later
    if state.distributed_type is DistributedType.NO:
        state.device = own
    elif (met := cast("torch.device", state.device)).type != own.type:
        raise UsageError(
            f"the launched processes train on {met.type} already, and not on {own.type}",
            hint="train on the other device in a run of its own",
        )
    try:
        return Accelerator(
            cpu=own.type == "cpu",
            mixed_precision="no",
            # The loop accumulates by itself; otherwise a launcher's environment would scale all gradients.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with=list(trackers) or None,
            project_dir=str(place) if trackers else None,
        )
    except ValueError as error:
        raise UsageError(
            f"this program has an Accelerator of its own already ({error})",
            hint='make that one with mixed_precision="no", or train in a program of its own',
        ) from error


def _own_device(name: str) -> torch.device:
    """Return the device that this process trains on; a launcher gives each of its processes one."""
    local, on_cpu = int(os.environ.get("LOCAL_RANK", "-1")), parse_flag_from_env("ACCELERATE_USE_CPU")
    if on_cpu and name == "auto":
        name = "cpu"
    if (on_cpu and name != "cpu") or (local != -1 and ":" in name):
        raise UsageError(
            f"device {name!r} is asked for, and the launcher gives every process its own",
            hint="use --device auto, and CUDA_VISIBLE_DEVICES to choose GPUs",
        )
    if local != -1 and name in ("auto", "cuda") and (gpus := torch.cuda.device_count()):
        name = f"cuda:{local % gpus}"  # else all of them would try the first one
    return trainable(name)


def start_trackers(on: Accelerator, recipe: Mapping[str, Any]) -> None:
    """Begin to log, with the recipe as the run's parameters."""
    if on.log_with:
        plain = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in recipe.items()
        }
        on.init_trackers("resprune", plain)


def end_trackers(on: Accelerator) -> None:
    """Let them write the rest. The processes stay together, as more may be trained after this run."""
    for tracker in on.trackers:
        tracker.finish()


def disband() -> None:
    """Let the launcher's processes go, at the end of the program; alone there is nothing to do."""
    if dist.is_initialized():
        dist.destroy_process_group()
