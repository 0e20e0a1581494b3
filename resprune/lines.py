"""A part of a network as layers one after another, of which the last convolution is to be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from resprune.families import Part
from resprune.families.layers import leaves


@dataclass(frozen=True, eq=False)
class Fit:
    """What is added to a convolution and behind it.

    Attributes:
        weight: (out, in, height, width), behind the norm's scale.
        bias: (out,); zeros where the layers cannot add a constant.
        mean, covariance: Of the convolution's windows on the images of the fit, (in * height * width,) and
            the square of that.
        error, error_before: Mean square of what is left on the images that chose the ridge, with the fit and
            without.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    covariance: Tensor
    error: float
    error_before: float

    def outputs(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (out,) of a convolution's outputs on the images of the fit."""
        flat = weight.flatten(1).to(self.covariance)
        variance = ((flat @ self.covariance) * flat).sum(1).clamp_min(0)
        return (flat @ self.mean).to(weight.device), variance.to(weight.device)


@dataclass(frozen=True, eq=False)
class Line:
    """A part as ``a(S(x) + L(x))``: L its layers one after another, of which the last convolution is fitted.

    For a whole block L is the residual branch, for a bare skip step its projection, and S then nothing.

    Attributes:
        skip: S; None for nothing.
        before: Layers of L before the last convolution.
        convolution: None where L has none that can be fitted.
        norm: Batch norm behind it; None for none.
        after: Layers of L behind both, which do nothing in eval mode where there is a convolution.
        activation: a.
    """

    skip: nn.Sequential | None
    before: tuple[nn.Module, ...]
    convolution: nn.Conv2d | None
    norm: nn.BatchNorm2d | None
    after: tuple[nn.Module, ...]
    activation: nn.Module

    @classmethod
    def of(cls, part: Part, *, bare: bool = False) -> Self:
        """Take a part to pieces; nothing is copied.

        Args:
            part: Of a chain.
            bare: Leave the branch out.
        """
        skip: nn.Sequential | None = None
        if part.branch is not None and not bare:
            skip, layers, activation = part.skip, leaves(part.branch), part.activation
        elif part.branch is not None:
            layers, activation = leaves(part.skip), part.activation
        else:
            children = list(part.module.named_children())
            ends_in_one = bool(children) and children[-1][0] in ("relu", "act")
            activation = children.pop()[1] if ends_in_one else nn.Identity()
            layers = [leaf for _, child in children for leaf in leaves(child)]
        convolution, norm = None, None
        last = max((i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)), default=len(layers))
        before, after = layers[:last], layers[last + 1 :]
        if last < len(layers):
            rest = [layer for layer in after if not _does_nothing(layer)]
            if not _fits(layers[last]) or len(rest) > 1 or not all(map(_is_plain_norm, rest)):
                before, after = layers, []
            else:
                convolution, norm = layers[last], (rest[0] if rest else None)
                after = [layer for layer in after if layer is not norm]
        return cls(skip, tuple(before), convolution, norm, tuple(after), activation)  # pyright: ignore[reportArgumentType]

    @property
    def pieces(self) -> tuple[Self, ...]:
        """The line cut behind every convolution that can be fitted, but for the last one.

        The sum of one is what the next one's layers see; only the last one's has the skip step. A bare step
        is one piece.
        """
        layers, pieces, begin = self.before, list[Self](), 0
        for i, layer in enumerate(() if self.skip is None else layers):
            if _fits(layer):
                behind = [*layers[i + 1 : i + 3], nn.Identity(), nn.Identity()]
                norm = behind.pop(0) if _is_plain_norm(behind[0]) else None
                activation = behind[0] if isinstance(behind[0], nn.ReLU) else nn.Identity()
                pieces.append(
                    replace(
                        self,
                        skip=None,
                        before=layers[begin:i],
                        convolution=layer,
                        norm=norm,
                        after=(),
                        activation=activation,
                    )
                )
                begin = i + 1 + (norm is not None)
        return (*pieces, replace(self, before=layers[begin:]))

    @classmethod
    def joined(cls, pieces: Sequence[Self]) -> Self:
        """Return the line of such pieces."""
        *inside, last = pieces
        layers = [layer for piece in inside for layer in (*piece.before, piece.convolution, piece.norm)]
        return replace(last, before=(*(layer for layer in layers if layer is not None), *last.before))

    @property
    def inside(self) -> tuple[Self, ...]:
        """The other convolutions of a branch that can be fitted, each with all layers before it.

        Their sums have no skip step.
        """
        *pieces, _ = self.pieces
        return tuple(self.joined(pieces[: count + 1]) for count in range(len(pieces)))

    @property
    def can_be_fitted(self) -> bool:
        """Whether there is a convolution whose output is L's."""
        return self.convolution is not None

    @property
    def unknowns(self) -> int:
        """Number of weights that one output of the convolution has; 0 where it cannot be fitted."""
        return 0 if self.convolution is None else self.convolution.weight[0].numel()

    def before_convolution(self, x: Tensor) -> Tensor:
        """Return h(x)."""
        for layer in self.before:
            x = layer(x)
        return x

    def finish(self, x: Tensor, h: Tensor) -> Tensor:
        """Return ``S(x) + n(W * h)``."""
        for layer in (self.convolution, self.norm, *self.after):
            h = h if layer is None else layer(h)
        return h if self.skip is None else self.skip(x) + h

    def sum(self, x: Tensor) -> Tensor:
        """Return ``S(x) + L(x)``, which the activation has not seen yet."""
        return self.finish(x, self.before_convolution(x))

    @torch.no_grad()
    def changed(self, fit: Fit) -> Self:
        """Return the line as it is with a fit: one other convolution in the place of convolution and norm."""
        old, norm = self.convolution, self.norm
        assert old is not None
        weight, bias = old.weight.double(), fit.bias.to(old.weight.device)
        scale, shift = (torch.ones_like(bias), 0.0) if norm is None else _scale_and_shift(norm)
        weight = weight * scale[:, None, None, None] + fit.weight.to(weight.device)
        bias = bias + shift + (0.0 if old.bias is None else old.bias.double() * scale)
        conv = nn.Conv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,  # pyright: ignore[reportArgumentType]
            old.stride,  # pyright: ignore[reportArgumentType]
            old.padding,  # pyright: ignore[reportArgumentType]
            old.dilation,  # pyright: ignore[reportArgumentType]
            device="meta",  # nothing is drawn for it
        )
        weight = weight.to(old.weight).contiguous(memory_format=torch.channels_last)
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(bias.to(old.weight), requires_grad=False) if self.has_bias else None
        return replace(self, convolution=conv, norm=None)

    def remainder(self, own: Tensor, target: Tensor) -> Tensor:
        """Return what a sum lacks, of any shape, for the activation to give what it gives of the target.

        Where ReLU gives nothing, a sum below zero misses nothing, and one above has to come down to zero.
        """
        if not isinstance(self.activation, nn.ReLU):
            return target - own
        return torch.where(target > 0, target - own, -own.clamp_min(0))

    @property
    def has_bias(self) -> bool:
        """Whether a constant can be added."""
        assert self.convolution is not None
        return self.norm is not None or self.convolution.bias is not None

    @torch.no_grad()
    def take_in(self, fit: Fit) -> None:
        """Add a fit to the layers, in place.

        The norm's statistics become those of the new convolution on the images of the fit, so that training
        goes on from the same function; every output channel's weights keep their norm, so that a learning
        rate means what it did.
        """
        assert self.convolution is not None
        weight, bias, norm = self.convolution.weight, self.convolution.bias, self.norm
        if norm is None:
            weight += fit.weight.to(weight)
            if bias is not None:
                bias += fit.bias.to(bias)
            return
        scale, shift = _scale_and_shift(norm)
        shift = shift + fit.bias.to(weight.device)
        if bias is not None:
            shift = shift + bias.double() * scale
            bias.zero_()
        wanted = weight.double() * scale[:, None, None, None] + fit.weight.to(weight.device)
        size, old = wanted.flatten(1).norm(dim=1), weight.double().flatten(1).norm(dim=1)
        keep = torch.where((size > 0) & (old > 0), old / size, 1.0)
        weight.copy_(wanted * keep[:, None, None, None])
        mean, variance = fit.outputs(weight)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        deviation = (norm.running_var.double() + norm.eps).sqrt()
        norm.weight.copy_(deviation / keep)
        norm.bias.copy_(shift + norm.running_mean.double() / keep)


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a norm multiplies by, and what it then adds, (channels,), in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _fits(layer: nn.Module) -> bool:
    """Whether a convolution is one of torch's own, over all channels, with zeros around the image."""
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _is_plain_norm(layer: nn.Module) -> bool:
    """Whether a layer is a batch norm with statistics and parameters, and nothing besides."""
    whole = isinstance(layer, nn.BatchNorm2d) and layer.affine and layer.running_mean is not None
    known = type(layer).forward is nn.BatchNorm2d.forward or type(layer).__name__ == "BatchNormAct2d"  # timm's
    return whole and known and all(_does_nothing(child) for child in layer.children())


def _does_nothing(layer: nn.Module) -> bool:
    """Whether a layer passes its input on in eval mode."""
    return isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d) or type(layer).__name__ == "DropPath"
