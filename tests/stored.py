"""A small network's weights as they lie on users' disks: stored, wrapped, cut and damaged in many ways."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import torch
from conftest import ARCHITECTURES, make_chain
from torch import Tensor, nn

Weights = dict[str, Tensor]


def weights() -> Weights:
    """Return the state dict of a small CIFAR ResNet: the same numbers, in new tensors, every time."""
    return dict(make_chain(ARCHITECTURES["cifar option A"]).network.state_dict())


def cast(change: Callable[[Tensor], Tensor]) -> Weights:
    return {name: change(t) if t.is_floating_point() else t for name, t in weights().items()}


def without(key: str) -> Weights:
    return {name: tensor for name, tensor in weights().items() if name != key}


def filled(key: str, value: float) -> Weights:
    state = weights()
    state[key].view(-1)[0] = value
    return state


def prefixed(prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights().items()}


def zipped(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def torchscript() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # torch deprecates what users still have
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr(name, "hello")
    return file.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content
