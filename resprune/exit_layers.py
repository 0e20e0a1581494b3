"""Layers of skip steps and heads as exits pass them: with what each exit has of its own, all in one call.

Exits come as (n * e, c, h, w), image-major: seen as (n, e * c, h, w), what every exit has of its own is one
run of channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import has_torch_function

from resprune.families.layers import Subsample

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
    """

    def __init__(
        self,
        norm: nn.BatchNorm2d,
        rows: Rows,
        *,
        stride: int = 1,
        rectified: bool = False,
        kept: bool = False,
    ) -> None:
        self.norm, self.rows, self.stride, self.rectified = norm, rows, stride, rectified
        self.kept = kept and stride == 1
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
        """Normalise (n * e, c, h, w) for the slice's e exits: one call over e * c channels."""
        norm, count = self.norm, exits.stop - exits.start
        pixels = x if count == 1 else x.reshape(-1, count * x.shape[1], *x.shape[2:])
        mean, var = self.wide("running_mean", exits), self.wide("running_var", exits)
        weight, bias = self.wide("weight", exits), self.wide("bias", exits)
        if self.rectified and weight is not None and self.learns(x):
            out = cast(
                "Tensor",
                _NormRelu.apply(pixels, mean, var, weight, bias, self.momentum, norm.eps, self.kept),
            )
        else:
            out = F.batch_norm(pixels, mean, var, weight, bias, norm.training, self.momentum, norm.eps)
            out = F.relu(out) if self.rectified else out
        out = out.view(x.shape) if count > 1 else out
        # timm's BatchNormAct2d is a norm that carries its activation.
        out = norm.act(norm.drop(out)) if hasattr(norm, "act") else out  # pyright: ignore[reportCallIssue]
        return out[:, :, :: self.stride, :: self.stride] if self.stride > 1 else out


class _NormRelu(torch.autograd.Function):
    """Batch norm in training mode and ReLU, of which as little is stored as can be.

    The exits of a pre-activation network normalise every state, and the state is stored for its block's own
    norm already. So the backward pass normalises once more to know where the ReLU was open, but where a
    convolution follows: that stores the output itself.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
        kept: bool,
    ) -> Tensor:
        out, batch_mean, inverse = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        out.relu_()
        ctx.save_for_backward(x, weight, bias, batch_mean, inverse, out if kept else None)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, mean, inverse, out = ctx.saved_tensors
        if out is None:
            out = F.batch_norm(x, mean, inverse.pow(-2) - ctx.eps, weight, bias, False, 0.0, ctx.eps)
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        mask = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inverse, True, ctx.eps, mask
        )
        return grads[0], None, None, grads[1], grads[2], None, None, None


class ExitLayer:
    """Any other layer of which every exit has its own: separate heads and projections.

    Args:
        layer: The native layer, which says what is computed.
        rows: Its parameters, (exits, ...) each.
    """

    def __init__(self, layer: nn.Module, rows: Rows) -> None:
        self.layer, self.rows = layer, rows

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Apply to (n * e, ...) for the e exits of the slice, all in one call."""
        # Autocast, which would do that for a layer, does not reach into vmap.
        rows = {name: tensor[exits].to(x.dtype) for name, tensor in self.rows.items()}
        states = x.unflatten(0, (-1, exits.stop - exits.start))
        apply = vmap(partial(functional_call, self.layer), in_dims=(0, 1), out_dims=1)
        return apply(rows, states).flatten(0, 1)


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
        self._convolution = convolution
        self._own = ExitLayer(convolution, rows) if rows else None

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Take (n * e, c_in, h, w) to (n * e, c_out, ceil(h / s), ceil(w / s))."""
        norm = self.norm
        mean, var = norm.wide("running_mean", exits), norm.wide("running_var", exits)
        scale, bias = norm.wide("weight", exits), norm.wide("bias", exits)
        if not norm.learns(x) or mean is None or var is None or scale is None or bias is None:
            return norm(self._convolution(x) if self._own is None else self._own(x, exits), exits)
        weight = self._convolution.weight[None] if self._own is None else self._own.rows["weight"][exits]
        options = norm.momentum, norm.norm.eps, norm.stride, norm.rectified
        return cast("Tensor", _ProjectNorm.apply(x, weight.flatten(2), scale, bias, mean, var, *options))


class _ProjectNorm(torch.autograd.Function):
    """1x1 convolution, batch norm in training mode, every s-th pixel, and perhaps a ReLU.

    With m and C the mean and covariance of an exit's P pixels, W its weight: ``mean(W x) = W m`` and
    ``var(W x) = diag(W C W^T)``. Stored are the centred input and the output.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        momentum: float,
        eps: float,
        stride: int,
        rectified: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # variances, in the precision of the parameters
            shape = -1, weight.shape[1]  # (e, c_out)
            exits = scale.numel() // shape[1]
            # (e, n, h, w, c): no copy where it is one exit's state in the channels-last format.
            states = x.unflatten(0, (-1, exits)).permute(1, 0, 3, 4, 2).to(weight.dtype).contiguous()
            count = states[0, ..., 0].numel()
            means = states.mean((1, 2, 3))
            centred = states - means.view(exits, 1, 1, 1, -1)
            pixels = centred.view(exits, count, -1)
            covariance = pixels.mT @ pixels / count
            variance = ((weight @ covariance) * weight).sum(2)
            mean.lerp_((weight @ means.unsqueeze(2)).flatten(), momentum)
            var.lerp_(variance.flatten() * (count / max(1, count - 1)), momentum)
            inverse = torch.rsqrt(variance + eps)
            wanted = centred[:, :, ::stride, ::stride]
            folded = weight * (scale.view(shape) * inverse).unsqueeze(2)
            out = torch.baddbmm(bias.view(exits, 1, -1), wanted.flatten(1, 3), folded.mT)
            if rectified:
                out.relu_()
            ctx.save_for_backward(
                centred.to(x.dtype), weight, scale, covariance, inverse, out if rectified else None
            )
            ctx.stride = stride
            out = out.view(*wanted.shape[:-1], -1).permute(1, 0, 4, 2, 3).flatten(0, 1)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        stored, weight, scale, covariance, inverse, out = ctx.saved_tensors
        centred = stored.to(weight.dtype)
        exits, stride = len(centred), ctx.stride
        grad = grad.unflatten(0, (-1, exits)).permute(1, 0, 3, 4, 2).flatten(1, 3).to(weight.dtype)
        if out is not None:
            grad = grad * (out > 0)
        scale = scale.view(exits, -1)
        wanted = centred[:, :, ::stride, ::stride]
        pixels = wanted.flatten(1, 3)
        of_projected = grad.mT @ pixels  # (e, c_out, c_in): sum over pixels of grad times input
        of_scale = (of_projected * weight).sum(2) * inverse
        of_variance = -0.5 * scale * inverse.square() * of_scale
        factor = (scale * inverse).unsqueeze(2)
        of_weight = factor * of_projected + 2 * of_variance.unsqueeze(2) * (weight @ covariance)
        of_covariance = weight.mT @ (of_variance.unsqueeze(2) * weight)
        of_pixels = grad @ (weight * factor)
        every = centred.flatten(1, 3)
        count = every.shape[1]
        # The centred input has no mean, and so its gradient must have none.
        offset = -of_pixels.sum(1, keepdim=True) / count
        of_states = torch.baddbmm(offset, every, of_covariance, alpha=2 / count).view_as(centred)
        of_states[:, :, ::stride, ::stride] += of_pixels.view_as(wanted)
        of_x = of_states.permute(1, 0, 4, 2, 3).flatten(0, 1).to(stored.dtype)
        if len(weight) == 1:
            of_weight = of_weight.sum(0, keepdim=True)
        return of_x, of_weight, of_scale.flatten(), grad.sum(1).flatten(), *(None,) * 6


Layer = nn.Module | ExitNorm | ExitLayer | ExitProjection


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
            yield ExitLayer(layer, rows) if rows else layer


def _norm(norm: nn.BatchNorm2d, rows: Rows, behind: list[nn.Module]) -> ExitNorm:
    """Return a norm with the layers behind it that it takes in, which are taken off the list."""
    stride = 1
    if behind and isinstance(behind[0], Subsample):
        stride = behind[0].stride
        del behind[0]
    rectified = bool(behind) and isinstance(behind[0], nn.ReLU) and not hasattr(norm, "act")
    if rectified:
        del behind[0]
    kept = bool(behind) and isinstance(behind[0], nn.Conv2d)
    return ExitNorm(norm, rows, stride=stride, rectified=rectified, kept=kept)


def _is_projection(layer: nn.Module) -> bool:
    if type(layer) is not nn.Conv2d:
        return False
    plain = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding == (0, 0)
    return plain and layer.groups == 1 and layer.bias is None
