"""The search for blocks whose removal the layers that stay can make up for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.lines import Line
from resprune.refit import Moments, at, some_pixels
from resprune.search import SHARE, OnPass, Search, Trial, ignore

_Targets = list[tuple[Tensor, Tensor]]
"""For every piece of a line: pixels (p,), and sums (n, p, c) that it should have there."""
TRIAL_ROWS = 16
"""Pixels that a trial's fit looks at, for each of its unknowns; the final fit looks at `refit.ROWS`."""
FEWEST_ROWS = 8192
"""But no fewer than these, which small fits need and can afford."""
MOST_UNKNOWNS = 1024
"""Convolutions behind the removal whose fits have more are left as they are: the cost grows with their cube."""
FEWEST_FITTED = 64
"""Images that it looks at, at least, where there are twice as many or more: others judge it."""
CUT = 0.3
"""Weight, in nats, of what the cut alone does: of removals that fits make up for about as well, the one goes
that does less by itself, as it asks less of fits made on few images."""
CUT_SHARE = 8
"""That is measured on one image in so many."""


@dataclass
class CompensatedSearch(Search):
    """A search in which every removal is compensated as `resprune.compensation` does, before it is judged.

    A trial fits the part before the block, and then every part behind it, convolution after convolution, to the
    original's sums there, on some pixels of some images; others judge it. Behind the block only convolutions of
    at most `MOST_UNKNOWNS` are fitted.
    """

    fits: dict[int, dict[int, Line]] = field(default_factory=dict)
    """Of every block that was tried last: lines with their fits, by their position in the network."""
    settled: dict[tuple[int, bool], Line] = field(default_factory=dict)
    """The same of all blocks that went; and whether it is a step whose branch is gone."""
    effort: ClassVar[float] = 2.8
    """9 of 27 like blocks then cost at most 40 passes of 512 images; of fewer, larger shares are looked at."""

    @property
    def fit_every(self) -> int:
        """One image in so many is fitted on."""
        return max(min(2, self._samples), self.one_in(SHARE, FEWEST_FITTED))

    @cached_property
    def _at(self) -> dict[int, int]:
        """Position among the parts of every block."""
        positions = {part.path: position for position, part in enumerate(self.chain.parts)}
        return {block.index: positions[block.path] for block in self.chain.blocks}

    @cached_property
    def _targets(self) -> list[list[_Targets]]:
        """What fits to every part of the original aim at, for every batch that is fitted on."""
        lines, unknowns = [Line.of(part) for part in self.chain.parts], self._unknowns
        chosen = [(index, self.images[index][some]) for index, some in self._some(self.fit_every)]
        looked_at = sum(len(images) for _, images in chosen)
        targets = []
        with torch.inference_mode():
            for index, images in chosen:
                x, own = self.chain.stem(self._inputs(images)), []
                for line, counts in zip(lines, unknowns, strict=True):
                    total, aims = x, []
                    for piece, count in zip(line.pieces, counts, strict=True):
                        total = piece.finish(x, piece.before_convolution(total))
                        rows = max(TRIAL_ROWS * count, FEWEST_ROWS) if count else 1
                        here = some_pixels(total, -(-rows // looked_at), self.seed + index)
                        aims.append((here, at(total, here)))
                    own.append(aims)
                    x = line.activation(total)
                targets.append(own)
        self.on_pass(looked_at / self._samples)
        return targets

    @property
    def _unknowns(self) -> list[list[int]]:
        """Return the most unknowns that a fit to each piece of each part may have; 0 where none is made."""
        unknowns: list[list[int]] = []
        for part in self.chain.parts:
            *inside, _ = (piece.unknowns for piece in Line.of(part).pieces)
            own = max(Line.of(part, bare=bare).unknowns for bare in (False, part.branch is not None))
            before = unknowns[-1][-1] if unknowns and part.step_is_trivial else 0  # where this leaves nothing
            unknowns.append([*(n if n <= MOST_UNKNOWNS else 0 for n in inside), max(own, before)])
        return unknowns

    def _start(self, k: int, gone: Collection[int]) -> int:
        """Return the position from which on block k's removal is made up for.

        That is the part before the block, or the block's own where its step remains, or where nothing that can
        be fitted is before it.
        """
        parts, own = self.chain.parts, self._at[k]
        for position in range(own, -1, -1):
            bare = position == own or position in gone
            if not (bare and parts[position].step_is_trivial):
                return position if Line.of(parts[position], bare=bare).can_be_fitted else own
        return own

    def trial_cost(self, removed: Collection[int], candidates: Collection[int]) -> float:
        """Return what `try_each` and `weigh` cost, in passes; the systems of equations are not counted."""
        trials = self._plain_cost(removed, candidates)
        shares = 1 / self._judge_every(1) + 1 / self.one_in(CUT_SHARE)
        return trials * shares + self._fits_cost(removed, candidates)

    def _judge_every(self, every: int) -> int:
        """One image in so many judges: with the last one of so many, none that is fitted on."""
        return max(every, min(2, self.fit_every))

    def _fits_cost(self, removed: Collection[int], candidates: Collection[int]) -> float:
        """Return what fits cost: the way to them, and the rest behind each twice, before and after its fits."""
        trials, way = self._plain_cost(removed, candidates), self._way(removed, candidates)
        return (2 * trials - way) / self.fit_every

    @torch.inference_mode()
    def try_each(
        self, removed: Collection[int], candidates: Collection[int], every: int = 1
    ) -> dict[int, Trial]:
        """Return what the output is with each candidate removed too, and made up for."""
        gone = {self._at[block] for block in removed}
        starts = {k: self._start(k, gone) for k in sorted(candidates)}
        self.fits = self._fit(starts, gone)
        trials, seen, last = {k: Trial() for k in starts}, 0, max(starts.values())
        every = self._judge_every(every)
        for index, some in self._some(every, every - 1):
            images, original = self.images[index][some], self._original[0][index][some]
            seen += len(images)
            x = self.chain.stem(self._inputs(images))
            for position in range(last + 1):
                for k in (k for k, start in starts.items() if start == position):
                    state = x
                    for later in range(position, len(self.chain.parts)):
                        state = self._pass(later, state, gone | {self._at[k]}, self.fits[k])
                    trials[k].see(original, self.chain.head(state))
                x = self._pass(position, x, gone)
        cost = self._fits_cost(removed, candidates)
        self.on_pass(cost + self._plain_cost(removed, candidates) * seen / self._samples)
        return trials

    def weigh(self, removed: Collection[int], tried: Mapping[int, Trial]) -> dict[int, float]:
        """Return the softened divergence after the fits, and a share of what the cut alone would do.

        That is `CUT` times the total variation distance without any fit, roughly.
        """
        cut = super().try_each(removed, tried, self.one_in(CUT_SHARE))
        return {k: trial.softened + CUT * cut[k].variation for k, trial in tried.items()}

    def settle(self, k: int, removed: Collection[int]) -> None:
        """Keep the fits of a block that goes."""
        gone = {self._at[block] for block in (*removed, k)}
        self.settled |= {(position, position in gone): line for position, line in self.fits[k].items()}

    def _fit(self, starts: Mapping[int, int], gone: Collection[int]) -> dict[int, dict[int, Line]]:
        """Return the fits of every candidate."""
        states = [
            self.chain.stem(self._inputs(self.images[index][some]))
            for index, some in self._some(self.fit_every)
        ]
        fits = {}
        for position in range(max(starts.values()) + 1):
            for k in (k for k, start in starts.items() if start == position):
                fits[k] = self._follow(states, position, {*gone, self._at[k]})
            states = [self._pass(position, x, gone) for x in states]
        return fits

    def _follow(self, states: list[Tensor], start: int, gone: Collection[int]) -> dict[int, Line]:
        """Fit one part after another, each on what those before it give."""
        parts, fits = self.chain.parts, {}
        for position in range(start, len(parts)):
            bare = position in gone
            if bare and parts[position].step_is_trivial:
                continue
            target = position
            while target + 1 in gone and parts[target + 1].step_is_trivial:
                target += 1
            aims = [[*([] if bare else own[position][:-1]), own[target][-1]] for own in self._targets]
            line = self.settled.get((position, bare)) or Line.of(parts[position], bare=bare)
            most = math.inf if position == start else MOST_UNKNOWNS
            inside = MOST_UNKNOWNS if any(before < position for before in gone) else 0  # or nothing is off
            fitted, sums = _fit(line, states, aims, most, inside=inside)
            if fitted is not line:
                fits[position] = fitted
            states = [line.activation(total) for total in sums]
        return fits

    def _pass(
        self,
        position: int,
        x: Tensor,
        gone: Collection[int],
        fits: Mapping[int, Line] = MappingProxyType({}),
    ) -> Tensor:
        """Apply a part with its fit, or its skip step where its branch is gone."""
        part = self.chain.parts[position]
        line = fits.get(position) or self.settled.get((position, position in gone))
        if line is not None:
            return line.activation(line.sum(x))
        if position not in gone:
            return part.module(x)
        return x if part.step_is_trivial else self._steps[position](x)

    @cached_property
    def _steps(self) -> dict[int, nn.Module]:
        parts = enumerate(self.chain.parts)
        return {i: part.step() for i, part in parts if part.branch is not None and not part.step_is_trivial}


def search_for(
    chain: ResidualChain, images: Sequence[Tensor], *, compensated: bool, seed: int, on_pass: OnPass = ignore
) -> Search:
    """Return what tries removals, each made up for or not.

    Args:
        chain: In eval mode; left as it is.
        images: Batches (n, c, h, w), preprocessed.
        compensated: Whether a removal is judged after fits that make up for it.
        seed: Of what is drawn.
        on_pass: Told what was computed.
    """
    return (CompensatedSearch if compensated else Search)(chain, images, seed, on_pass)


def _fit(
    line: Line, states: Sequence[Tensor], targets: Sequence[_Targets], most: float, *, inside: float
) -> tuple[Line, list[Tensor]]:
    """Fit a line's pieces one after another, each on what those before it give.

    Args:
        line: Left as it is.
        states: Its inputs (n, c, h, w), batch by batch.
        targets: Of every batch.
        most: Unknowns that the fit of the last piece may have.
        inside: The same of the others.

    Returns:
        The line with its fits, the same object where there are none; and its sums.
    """
    pieces, sums, helped = list[Line](), list(states), False
    *others, last = line.pieces
    for number, piece in enumerate((*others, last)):
        entering = [piece.before_convolution(h) for h in sums]
        if piece.can_be_fitted and piece.unknowns <= (most if piece is last else inside):
            moments = Moments.none(piece)
            for x, h, aims in zip(states, entering, targets, strict=True):
                moments.look(piece, x, h, *aims[number])
            if (fit := moments.solve()) is not None:
                piece, helped = piece.changed(fit), True
        sums = [piece.finish(x, h) for x, h in zip(states, entering, strict=True)]
        pieces.append(piece)
    return Line.joined(pieces) if helped else line, sums
