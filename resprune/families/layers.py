"""Leaf layers that stock torch lacks, shared by the families."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Subsample(nn.Module):
    """Every ``stride``-th pixel: (n, c, h, w) -> (n, c, ceil(h / stride), ceil(w / stride))."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class PadChannels(nn.Module):
    """Zero channels put around the input's: (n, c, h, w) -> (n, before + c + after, h, w)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}"


class BareStep(nn.Sequential):
    """The skip step of a block whose residual branch was removed; children keep their native names."""


def put(parent: nn.Module, path: str, layer: nn.Module) -> None:
    """Give a module a layer at a dotted path; what is missing on the way is made as `nn.Sequential`."""
    *containers, name = path.split(".")
    for container in containers:
        if container not in dict(parent.named_children()):
            parent.add_module(container, nn.Sequential())
        parent = parent.get_submodule(container)
    parent.add_module(name, layer)
