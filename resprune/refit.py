"""The last convolution of a part of a network, fitted by least squares to what the part's sum should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from resprune.lines import Fit, Line

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Relative to the mean variance of the inputs; one is chosen on images that the fit does not see."""
HELD = 5
"""One image in so many chooses the ridge."""
ROWS = 64
"""Pixels that a fit looks at, for each of its unknowns: more change nothing."""


def fit(
    line: Line,
    states: Sequence[Tensor],
    targets: Sequence[Tensor],
    *,
    seed: int = 0,
    rows: int | None = None,
) -> Fit | None:
    """Fit a line's sum to targets; None where that does not help.

    Args:
        line: With a convolution.
        states: Its inputs (n, c, h, w), batch by batch.
        targets: What its sums should be.
        seed: Of the pixels that are looked at.
        rows: How many for each unknown; by default `ROWS`.
    """
    moments = Moments.none(line)
    count = -(-(rows or ROWS) * line.unknowns // sum(map(len, states)))
    for index, (x, t) in enumerate(zip(states, targets, strict=True)):
        here = some_pixels(t, count, seed + index)
        moments.look(line, x, line.before_convolution(x), here, at(t, here))
    return moments.solve()


def some_pixels(state: Tensor, count: int, seed: int) -> Tensor:
    """Return flat positions (p,) in states (n, c, h, w), ascending: ``count`` drawn by the seed, or all."""
    generator = torch.Generator().manual_seed(seed)
    there = state[0, 0].numel()
    return torch.randperm(there, generator=generator)[:count].sort().values.to(state.device)


def at(state: Tensor, pixels: Tensor) -> Tensor:
    """Return a state's (n, c, h, w) values at flat positions, (n, p, c)."""
    return state.flatten(2)[:, :, pixels].transpose(1, 2)


def windows(line: Line, h: Tensor, pixels: Tensor) -> Tensor:
    """Return what the convolution sees where it gives the output's pixels, (n, p, in * height * width)."""
    conv = line.convolution
    assert conv is not None
    (high, wide), (down, along) = conv.kernel_size, conv.dilation
    top, left = conv.padding  # pyright: ignore[reportAssignmentType]
    h = F.pad(h, (left, left, top, top))  # pyright: ignore[reportArgumentType]
    seen = h.unfold(2, (high - 1) * down + 1, conv.stride[0]).unfold(3, (wide - 1) * along + 1, conv.stride[1])
    rows, columns = pixels // seen.shape[3], pixels % seen.shape[3]
    chosen = seen[:, :, rows, columns, ::down, ::along]  # (n, in, p, height, width)
    return chosen.transpose(1, 2).flatten(2)


@dataclass
class Moments:
    """Sums of products of windows and remainders; of the images that are fitted, and of every fifth one.

    Attributes:
        shape: Of the convolution's weights.
        has_bias: Whether a constant is fitted too.
        sums: For both kinds of images: products of windows (with a one at the end) with themselves, with the
            remainders, squares of the remainders, and how many there are.
        images: Seen so far.
    """

    shape: torch.Size
    has_bias: bool
    sums: tuple[list[Tensor], list[Tensor]]
    images: int = 0

    @classmethod
    def none(cls, line: Line) -> Self:
        """Begin."""
        assert line.convolution is not None
        shape = line.convolution.weight.shape
        size, out = shape[1:].numel() + 1, shape[0]

        device = line.convolution.weight.device
        device = device if device.type == "cuda" else torch.device("cpu")  # others may have no double precision

        def zeros() -> list[Tensor]:
            sizes = ((size, size), (size, out), (), ())
            return [torch.zeros(s, dtype=torch.float64, device=device) for s in sizes]

        return cls(shape, line.has_bias, (zeros(), zeros()))

    def look(self, line: Line, x: Tensor, h: Tensor, pixels: Tensor, wanted: Tensor) -> None:
        """Add what a line sees of h(x) (n, c, h, w), and what its sum lacks of that wanted (n, p, c)."""
        self.add(windows(line, h, pixels), line.remainder(at(line.finish(x, h), pixels), wanted))

    def add(self, seen: Tensor, left: Tensor) -> None:
        """Add windows (n, p, in * height * width) and what is left there of the targets (n, p, out)."""
        number = torch.arange(self.images, self.images + len(seen), device=seen.device)
        self.images += len(seen)
        for kind, chosen in enumerate((number % HELD != 0, number % HELD == 0)):
            x, r = seen[chosen].flatten(0, 1), left[chosen].flatten(0, 1)
            x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            new = (x.T @ x, x.T @ r, r.square().sum(), x.new_tensor(len(x)))
            for total, value in zip(self.sums[kind], new, strict=True):
                total += value.to(total)

    def solve(self) -> Fit | None:
        """Return the fit with the best of the `RIDGES`, or None where none helps or numbers are not finite."""
        (products, crossed, _, count), (others, their_crossed, squares, their_count) = self.sums
        if not count or not their_count or not bool(torch.isfinite(crossed).all()):
            return None
        products, crossed = products / count, crossed / count
        others, their_crossed, before = others / their_count, their_crossed / their_count, squares / their_count
        mean = products[:-1, -1]
        covariance = products[:-1, :-1] - mean[:, None] * mean
        moved = crossed[:-1] - mean[:, None] * crossed[-1] if self.has_bias else crossed[:-1]
        system = covariance if self.has_bias else products[:-1, :-1]
        size = system.diagonal().mean()
        best: tuple[float, Tensor] | None = None
        for ridge in RIDGES:
            regular = system.clone()
            regular.diagonal().add_(ridge * size)
            factor, info = torch.linalg.cholesky_ex(regular)
            if int(info):
                continue
            weight = torch.cholesky_solve(moved, factor)
            constant = crossed[-1] - mean @ weight if self.has_bias else torch.zeros_like(crossed[-1])
            whole = torch.cat([weight, constant[None]])
            error = float(before - 2 * (whole * their_crossed).sum() + (whole * (others @ whole)).sum())
            if error < (float(before) if best is None else best[0]):
                best = error, whole
        if best is None:
            return None
        error, whole = best
        weight = whole[:-1].T.reshape(self.shape)
        return Fit(weight, whole[-1], mean, covariance, error, float(before))
