"""Layers of skip steps and heads as exits pass them: with what each exit has of its own, all in one call.

States come as (e, n, c, h, w), in memory in one of two orders. Exits first, each in the channels-last format,
is what products of matrices take as it is. Images first, (n, e * c, h, w) in memory, is what a norm over the
channels of all exits takes in one call. What has the other order is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import has_torch_function

from resprune.exit_norms import NormRelu, ProjectNorm
from resprune.families.layers import Subsample, is_global_average

Rows = Mapping[str, Tensor]
"""Tensors of a layer that every exit has for itself: the layer's own name for one -> (exits, ...)."""


class ExitNorm:
    """One batch norm as the exits see it; what they do not have of their own is the native layer's.

    Args:
        norm: The native layer; its statistics are not touched.
        rows: Statistics (exits, channels), updated in place in training mode; weight and bias likewise where
            heads are separate.
        stride: Of the pixels that are wanted; the statistics are those of all.
        rectified: Whether a ReLU follows, which is then done here.
        kept: Whether the layer after that keeps its input for the backward pass anyway.
        averaged: Whether the average over all pixels follows. In training it is done here, as its gradient is
            the same at all pixels and need not be written to each.
    """

    def __init__(
        self,
        norm: nn.BatchNorm2d,
        rows: Rows,
        *,
        stride: int = 1,
        rectified: bool = False,
        kept: bool = False,
        averaged: bool = False,
    ) -> None:
        self.norm, self.rows, self.stride, self.rectified = norm, rows, stride, rectified
        self.kept, self.averaged = kept and stride == 1, averaged
        self.momentum = 0.1 if norm.momentum is None else norm.momentum

    def wide(self, name: str, exits: slice) -> Tensor | None:
        """Return a tensor of the norm for the slice's e exits, (e * c,); a view where it is the exits' own."""
        if name in self.rows:
            return self.rows[name][exits].flatten()
        native = getattr(self.norm, name)
        return None if native is None else native.repeat(exits.stop - exits.start)

    def learns(self, x: Tensor) -> bool:
        """Whether a gradient is wanted through the statistics of the batch, and nobody else computes those."""
        return self.norm.training and torch.is_grad_enabled() and not has_torch_function((x,))

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Normalise (e, n, c, h, w) for the slice's e exits: one call over e * c channels."""
        norm, count = self.norm, exits.stop - exits.start
        pixels = x.transpose(0, 1).flatten(1, 2)
        mean, var = self.wide("running_mean", exits), self.wide("running_var", exits)
        weight, bias = self.wide("weight", exits), self.wide("bias", exits)
        if self.rectified and weight is not None and self.learns(x):
            options = self.momentum, norm.eps, self.kept, self.averaged and self.stride == 1
            out = cast("Tensor", NormRelu.apply(pixels, mean, var, weight, bias, *options))
        else:
            out = F.batch_norm(pixels, mean, var, weight, bias, norm.training, self.momentum, norm.eps)
            out = F.relu(out) if self.rectified else out
        # timm's BatchNormAct2d is a norm that carries its activation.
        out = norm.act(norm.drop(out)) if hasattr(norm, "act") else out  # pyright: ignore[reportCallIssue]
        out = out[:, :, :: self.stride, :: self.stride] if self.stride > 1 else out
        return out.unflatten(1, (count, -1)).transpose(0, 1)


class ExitLayer:
    """Any other layer of which every exit has its own: separate heads and projections.

    Args:
        layer: The native layer, which says what is computed.
        rows: Its parameters, (exits, ...) each.
    """

    def __init__(self, layer: nn.Module, rows: Rows) -> None:
        self.layer, self.rows = layer, rows

    def parameter(self, name: str, exits: slice) -> Tensor:
        """Return a parameter that the exits have, (e, ...) for the e exits of the slice."""
        return self.rows[name][exits]

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Apply to (e, n, ...) for the e exits of the slice, all in one call."""
        # Autocast, which would do that for a layer, does not reach into vmap.
        rows = {name: tensor[exits].to(x.dtype) for name, tensor in self.rows.items()}
        # Pooling has no rule for vmap in the channels-last format, which a single pixel's strides may tell too.
        return vmap(partial(functional_call, self.layer))(rows, x.flatten().view(x.shape))


class SharedLayer:
    """A layer of which the exits have nothing of their own.

    Args:
        layer: Maps every image alone.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def parameter(self, name: str, exits: slice) -> Tensor:
        """Return a parameter for all exits, (1, ...)."""
        return getattr(self.layer, name)[None]

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Apply to (e, n, ...), whatever the exits are."""
        if x.stride(0) >= x.stride(1):
            return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        x = x.transpose(0, 1)
        return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2]).transpose(0, 1)


class ExitProjection:
    """A 1x1 convolution and the norm behind it, of whose output perhaps every s-th pixel alone is wanted.

    In training the norm's statistics are those of all pixels. They follow from mean and covariance of the
    input, of which there are fewer channels and which is stored anyway, so that the projection itself is done
    for the wanted pixels alone, and normalises in passing.

    Args:
        convolution: The native layer, without a bias and with stride 1.
        rows: Its weight (exits, c_out, c_in, 1, 1) where heads are separate.
        norm: The norm, with the stride.
    """

    def __init__(self, convolution: nn.Conv2d, rows: Rows, norm: ExitNorm) -> None:
        self.norm = norm
        self.project = ExitLayer(convolution, rows) if rows else SharedLayer(convolution)

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Take (e, n, c_in, h, w) to (e, n, c_out, ceil(h / s), ceil(w / s)); averaged, to single pixels."""
        norm = self.norm
        mean, var = norm.wide("running_mean", exits), norm.wide("running_var", exits)
        scale, bias = norm.wide("weight", exits), norm.wide("bias", exits)
        if not norm.learns(x) or mean is None or var is None or scale is None or bias is None:
            return norm(self.project(x, exits), exits)
        weight = self.project.parameter("weight", exits)
        options = norm.momentum, norm.norm.eps, norm.stride, norm.rectified, norm.averaged
        return cast("Tensor", ProjectNorm.apply(x, weight.flatten(2), scale, bias, mean, var, *options))


Layer = SharedLayer | ExitNorm | ExitLayer | ExitProjection


def exit_layers(layers: Sequence[nn.Module], rows_of: Callable[[nn.Module], Rows]) -> Iterable[Layer]:
    """Give every layer what the exits have of their own, and put those together that are cheaper so.

    Args:
        layers: Run one after another.
        rows_of: What the exits have of a layer.
    """
    left = list(layers)
    while left:
        layer = left.pop(0)
        rows = rows_of(layer)
        if _is_projection(layer) and left and isinstance(left[0], nn.BatchNorm2d):
            norm = left[0]
            own = rows_of(norm)
            if own and not hasattr(norm, "act"):
                del left[0]
                yield ExitProjection(cast("nn.Conv2d", layer), rows, _norm(norm, own, left))
                continue
        if rows and isinstance(layer, nn.BatchNorm2d):
            yield _norm(layer, rows, left)
        else:
            yield ExitLayer(layer, rows) if rows else SharedLayer(layer)


def _norm(norm: nn.BatchNorm2d, rows: Rows, behind: list[nn.Module]) -> ExitNorm:
    """Return a norm with the layers behind it that it takes in, which are taken off the list.

    An average stays on it, for where it was not done.
    """
    stride = 1
    if behind and isinstance(behind[0], Subsample):
        stride = behind[0].stride
        del behind[0]
    rectified = bool(behind) and isinstance(behind[0], nn.ReLU) and not hasattr(norm, "act")
    if rectified:
        del behind[0]
    kept = bool(behind) and isinstance(behind[0], nn.Conv2d)
    averaged = bool(behind) and is_global_average(behind[0])
    return ExitNorm(norm, rows, stride=stride, rectified=rectified, kept=kept, averaged=averaged)


def _is_projection(layer: nn.Module) -> bool:
    if type(layer) is not nn.Conv2d:
        return False
    plain = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)
    return plain and layer.groups == 1 and layer.bias is None
