"""Norms on the way of the exits in training, with what is behind and before them: values and gradients.

Statistics are those of the batch, for every exit its own. Autograd alone would store a tensor for every layer,
and write gradients that are the same at all pixels to each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class NormRelu(torch.autograd.Function):
    """Batch norm in training mode, ReLU and perhaps the average of all pixels, storing as little as can be.

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
        averaged: bool,
    ) -> Tensor:
        out, batch_mean, inverse = torch.native_batch_norm(x, weight, bias, mean, var, True, momentum, eps)
        out.relu_()
        ctx.save_for_backward(x, weight, bias, batch_mean, inverse, out if kept else None)
        ctx.eps, ctx.averaged = eps, averaged
        return out.mean((2, 3), keepdim=True) if averaged else out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, mean, inverse, out = ctx.saved_tensors
        if out is None:
            out = F.batch_norm(x, mean, inverse.pow(-2) - ctx.eps, weight, bias, False, 0.0, ctx.eps)
        if ctx.averaged:
            grad = (grad / out[0, 0].numel()).expand_as(out)
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        mask = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
        grads = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, None, None, mean, inverse, True, ctx.eps, mask
        )
        return grads[0], None, None, grads[1], grads[2], *(None,) * 4


class ProjectNorm(torch.autograd.Function):
    """1x1 convolution, batch norm in training mode, every s-th pixel, perhaps a ReLU and the average of those.

    With m and C the mean and covariance of an exit's P pixels, W its weight: ``mean(W x) = W m`` and
    ``var(W x) = diag(W C W^T)``. Stored is what others store too: the input and, for a ReLU, the output.
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
        averaged: bool,
    ) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # variances, in the precision of the parameters
            shape = -1, weight.shape[1]  # (e, c_out)
            exits = len(x)
            stored = x.permute(0, 1, 3, 4, 2).contiguous()  # a view, in the order that they come in
            states = stored.to(weight.dtype)
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
            out = out.view(*wanted.shape[:-1], -1).to(x.dtype)
            ctx.save_for_backward(stored, weight, scale, means, covariance, inverse, out if rectified else None)
            ctx.stride, ctx.averaged = stride, averaged
            given = out.mean((2, 3), keepdim=True) if averaged else out
        return given.permute(0, 1, 4, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        stored, weight, scale, means, covariance, inverse, out = ctx.saved_tensors
        exits, stride = len(stored), ctx.stride
        states = stored.to(weight.dtype)
        wanted = states[:, :, ::stride, ::stride]
        grad = grad.permute(0, 1, 3, 4, 2)  # (e, n, h, w, c_out), or of one pixel
        if ctx.averaged:
            grad = (grad / wanted[0, 0, ..., 0].numel()).expand(*wanted.shape[:-1], -1)
        if out is not None:
            grad = torch.ops.aten.threshold_backward(grad, out, 0)
        grad = grad.flatten(1, 3).to(weight.dtype)
        of_bias, means, scale = grad.sum(1, keepdim=True), means.unsqueeze(1), scale.view(exits, -1)
        # (e, c_out, c_in): sum over pixels of grad times centred input
        of_projected = grad.mT @ wanted.flatten(1, 3) - of_bias.mT @ means
        of_scale = (of_projected * weight).sum(2) * inverse
        of_variance = -0.5 * scale * inverse.square() * of_scale
        factor = (scale * inverse).unsqueeze(2)
        of_weight = factor * of_projected + 2 * of_variance.unsqueeze(2) * (weight @ covariance)
        of_pixels = grad @ (weight * factor)
        every = states.flatten(1, 3)
        count = every.shape[1]
        of_covariance = 2 / count * weight.mT @ (of_variance.unsqueeze(2) * weight)
        # The centred input has no mean, and so its gradient must have none.
        offset = -of_pixels.sum(1, keepdim=True) / count - means @ of_covariance
        of_states = torch.baddbmm(offset, every, of_covariance).view_as(states)
        of_states[:, :, ::stride, ::stride] += of_pixels.view_as(wanted)
        of_x = of_states.permute(0, 1, 4, 2, 3).to(stored.dtype)
        if len(weight) == 1:
            of_weight = of_weight.sum(0, keepdim=True)
        return of_x, of_weight, of_scale.flatten(), of_bias.flatten(), *(None,) * 7
