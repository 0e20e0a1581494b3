"""The search for blocks whose removal the layers that stay can make up for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from resprune.lines import Line
from resprune.refit import Moments, at, some_pixels
from resprune.search import SHARE, Search, lost_in

TRIAL_ROWS = 16
"""Pixels that a trial's fit looks at, for each of its unknowns; the final fit looks at `refit.ROWS`."""
MOST_UNKNOWNS = 1024
"""Parts behind the removal whose fits have more are left as they are: the cost grows with their cube."""
FEWEST_FITTED = 64
"""Images that it looks at, at least, where there are twice as many or more: others judge it."""
CUT = 0.3
"""Weight, in nats, of what the cut alone does: of removals that fits make up for about as well, the one goes
that does less by itself, as it asks less of fits made on few images."""
CUT_SCALE = 0.5
"""Nats of divergence after the cut from which on more hardly counts: such outputs need the fits in any case."""
CUT_SHARE = 8
"""That is measured on one image in so many."""


@dataclass
class CompensatedSearch(Search):
    """A search in which every removal is compensated as `resprune.compensation` does, before it is judged.

    A trial fits the part before the block, and then every part behind it of at most `MOST_UNKNOWNS`, to the
    original's sums there, on some pixels of some images; others judge it. Convolutions inside a branch are left
    as they are.
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
    def _targets(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Pixels (p,) and sums (n, p, c) of every part of the original, for every batch that is fitted on."""
        lines, unknowns = [Line.of(part) for part in self.chain.parts], self._unknowns
        chosen = [(index, self.images[index][some]) for index, some in self._some(self.fit_every)]
        looked_at = sum(len(images) for _, images in chosen)
        targets = []
        with torch.inference_mode():
            for index, images in chosen:
                x, own = self.chain.stem(self._inputs(images)), []
                for line, most in zip(lines, unknowns, strict=True):
                    total = line.sum(x)
                    count = -(-TRIAL_ROWS * max(1, most) // looked_at)
                    here = some_pixels(total, count, self.seed + index)
                    own.append((here, at(total, here)))
                    x = line.activation(total)
                targets.append(own)
        self.on_pass(looked_at / self._samples)
        return targets

    @property
    def _unknowns(self) -> list[int]:
        """Return the most unknowns that a fit to each part's sums may have; 0 for none."""
        most: list[int] = []
        for part in self.chain.parts:
            own = max(Line.of(part, bare=bare).unknowns for bare in (False, part.branch is not None))
            before = most[-1] if most and part.step_is_trivial else 0  # where this part leaves nothing
            most.append(max(own, before))
        return most

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
    ) -> dict[int, float]:
        """Return the divergence with each candidate removed too, and made up for."""
        gone = {self._at[block] for block in removed}
        starts = {k: self._start(k, gone) for k in sorted(candidates)}
        self.fits = self._fit(starts, gone)
        sums, seen, last = dict.fromkeys(starts, 0.0), 0, max(starts.values())
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
                    sums[k] += lost_in(original, self.chain.head(state))
                x = self._pass(position, x, gone)
        cost = self._fits_cost(removed, candidates)
        self.on_pass(cost + self._plain_cost(removed, candidates) * seen / self._samples)
        return {k: total / seen for k, total in sums.items()}

    def weigh(self, removed: Collection[int], tried: Mapping[int, float]) -> dict[int, float]:
        """Return the divergence after the fits, and a share of what the cut alone would do.

        That is ``CUT (1 - exp(-D / CUT_SCALE))``, D the divergence without any fit, roughly: it saturates, as
        outputs that are wrong cannot become wronger.
        """
        cut = super().try_each(removed, tried, self.one_in(CUT_SHARE))
        return {k: fitted - CUT * math.expm1(-cut[k] / CUT_SCALE) for k, fitted in tried.items()}

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
            line = self.settled.get((position, bare)) or Line.of(parts[position], bare=bare)
            if line.can_be_fitted and (position == start or line.unknowns <= MOST_UNKNOWNS):
                target = position
                while target + 1 in gone and parts[target + 1].step_is_trivial:
                    target += 1
                moments = Moments.none(line)
                for x, targets in zip(states, self._targets, strict=True):
                    moments.look(line, x, *targets[target])
                if (fit := moments.solve()) is not None:
                    fits[position] = line.changed(fit)
            states = [self._pass(position, x, gone, fits) for x in states]
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
