"""A device's name -> the device, tried out before anything depends on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from resprune.errors import UsageError


def usable(name: str, also: Callable[[torch.device], object] = lambda device: None) -> torch.device:
    """Return the device of a name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` is CUDA where there is one, else the CPU.
        also: What else has to work there.

    Raises:
        UsageError: where it does not.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):  # others lack double precision, or are not waited for
            raise UsageError(f"device {name!r} is not supported", hint="use --device auto, cpu, cuda or cuda:1")
        _compute(device)
        also(device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"device {name!r} cannot be used ({reason})", hint="use --device cpu") from error
    return device


def trainable(name: str) -> torch.device:
    """Return the device of a name as `usable` does, where networks can be trained on it.

    Raises:
        UsageError: where they cannot.
    """
    kind, colon, index = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and colon and index.isdecimal()):
        raise UsageError(
            f"nothing can be trained on device {name!r}", hint="use --device auto, cpu, cuda or cuda:1"
        )
    return usable(name)


@torch.inference_mode()
def _compute(device: torch.device) -> None:
    """Run one convolution: a device may be there, and take tensors, and have no kernels for them."""
    ones = torch.ones(1, 1, 3, 3, device=device)
    F.conv2d(ones, ones).cpu()
