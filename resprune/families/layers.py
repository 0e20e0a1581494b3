"""Leaf layers that stock torch lacks, shared by the families."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_IN_TURN = {
    "timm.layers.conv_bn_act.ConvNormAct": "conv bn aa",
    "timm.models.resnetv2.DownsampleConv": "conv norm",
    "timm.models.resnetv2.DownsampleAvg": "pool conv norm",
    "timm.models.byobnet.DownsampleAvg": "pool conv",
}
"""Classes that run these children one after another, and nothing else."""


def leaves(module: nn.Module) -> list[nn.Module]:
    """Return the layers that a module runs one after another, as far as they are known; else itself."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        children = list(module)
    elif kind in _IN_TURN:
        children = [getattr(module, name, None) for name in _IN_TURN[kind].split()]
    else:
        return [module]
    return [leaf for child in children if child is not None for leaf in leaves(child)]


def is_global_pool(module: nn.Module) -> bool:
    """Whether a layer leaves one value of each channel."""
    known = type(module).__name__ in ("AdaptiveAvgPool2d", "SelectAdaptivePool2d")  # timm's, without timm
    size = getattr(module, "output_size", getattr(getattr(module, "pool", None), "output_size", None))
    return known and size in (1, (1, 1))


def is_global_average(module: nn.Module) -> bool:
    """Whether a layer leaves the average of each channel; done once more it changes nothing."""
    pool = getattr(module, "pool", module)
    return is_global_pool(module) and isinstance(pool, nn.AdaptiveAvgPool2d)


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
