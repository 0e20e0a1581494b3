"""Batch norms that see the images of all processes, on any device and in any family's layers."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SyncedNorms(TorchFunctionMode):
    """Within it, batch norms in training mode normalise with mean and variance over all processes.

    Every norm of a network and of its exits ends in ``F.batch_norm``, so this covers all of them without
    changing a layer; torch's own ``SyncBatchNorm`` replaces layers and does not run on CPUs.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_synced if func is F.batch_norm else func)(*args, **(kwargs or {}))


class _Total(torch.autograd.Function):
    """The sum over all processes; every process's gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Total.forward(ctx, *grads)


def _total(x: Tensor) -> Tensor:
    return cast("Tensor", _Total.apply(x))


def _synced(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what ``F.batch_norm`` does to (n, c, ...), n over all processes; all of them have the same n."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    axes, shape = (0, *range(2, x.ndim)), (1, -1, *(1,) * (x.ndim - 2))
    inputs = x.float()  # as the native kernel, which accumulates in float32 whatever its input
    count = inputs.numel() // inputs.shape[1] * dist.get_world_size()
    mean = _total(inputs.sum(axes)) / count
    centred = inputs - mean.view(shape)
    # Two passes: the difference of E[x^2] and E[x]^2 would lose the digits that a test compares.
    var = _total(centred.square().sum(axes)) / count
    out = centred * torch.rsqrt(var + eps).view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((var * count / max(1, count - 1)).to(running_var.dtype), momentum)
    return out.to(x.dtype)
