"""The search for blocks whose removal the layers that stay can make up for."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.lines import Fit, Line
from resprune.refit import Moments, at, some_pixels, windows
from resprune.search import Search, lost_in

TRIAL_ROWS = 16
"""Pixels that a trial's fit looks at, for each of its unknowns; the final fit looks at `refit.ROWS`."""
CUT = 0.05
"""Weight of what the cut alone does: where fits are about as good, the removal goes that asks less of them."""


@dataclass
class CompensatedSearch(Search):
    """A search in which every removal is compensated as `resprune.compensation` does, before it is judged.

    A trial fits the part before the block, on some pixels of some images, to the original's sums behind it.
    """

    fits: dict[int, Fit | None] = field(default_factory=dict)

    @cached_property
    def _working(self) -> ResidualChain:
        """The whole chain, whose parts take in the fits of removals that are settled."""
        with torch.inference_mode(mode=False):  # parameters that are to change later
            return self.chain.duplicate()

    @cached_property
    def _at(self) -> dict[int, int]:
        """Position among the parts of every block."""
        positions = {part.path: position for position, part in enumerate(self.chain.parts)}
        return {block.index: positions[block.path] for block in self.chain.blocks}

    @cached_property
    def _targets(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Of images that fits look at, for every batch and part of the original: pixels (p,), sums (n, p, c)."""
        lines = [Line.of(part) for part in self.chain.parts]
        chosen = [(index, self.images[index][some]) for index, some in self._some(self.every)]
        looked_at = sum(len(images) for _, images in chosen)
        targets = []
        with torch.inference_mode():
            for index, images in chosen:
                x, own = self.chain.stem(self._inputs(images)), []
                for line in lines:
                    total = line.sum(x)
                    count = -(-TRIAL_ROWS * max(1, line.unknowns) // looked_at)
                    here = some_pixels(total, count, self.seed + index)
                    own.append((here, at(total, here)))
                    x = line.activation(total)
                targets.append(own)
        self.on_pass(looked_at / self._samples)
        return targets

    def _site(self, k: int, removed: Collection[int]) -> tuple[int, Line, int] | None:
        """Return where block k's removal is made up for: the part, as a line, and the part of its target.

        None where the stem or a step without a convolution is before the block.
        """
        parts, gone = self._working.parts, {self._at[block] for block in removed}
        position = target = self._at[k]
        while target + 1 < len(parts) and target + 1 in gone and parts[target + 1].step_is_trivial:
            target += 1
        bare = not parts[position].step_is_trivial
        while not bare and position >= 0:
            position -= 1
            if position not in gone:
                break
            bare = not parts[position].step_is_trivial
        if position < 0:
            return None
        line = Line.of(parts[position], bare=bare)
        return (position, line, target) if line.can_be_fitted else None

    def trial_cost(self, removed: Collection[int], candidates: Collection[int]) -> float:
        """Return what `try_each` and `weigh` cost, in passes; the systems of equations are not counted."""
        trials = self._plain_cost(removed, candidates)
        return trials + (trials + self._way(removed, candidates)) / self.every

    @torch.inference_mode()
    def try_each(
        self, removed: Collection[int], candidates: Collection[int], every: int = 1
    ) -> dict[int, float]:
        """Return the divergence with each candidate removed too, and made up for."""
        sites = {k: self._site(k, removed) for k in sorted(candidates)}
        self.fits = self._fit({k: site for k, site in sites.items() if site is not None}, removed)
        parts, sums, seen = self._working.parts, dict.fromkeys(sites, 0.0), 0
        starts: dict[int, list[int]] = {}
        for k, site in sites.items():
            starts.setdefault(self._at[k] if site is None else site[0], []).append(k)
        gone = {self._at[block] for block in removed}
        for index, some in self._some(every):
            images, original = self.images[index][some], self._original[0][index][some]
            seen += len(images)
            x = self._working.stem(self._inputs(images))
            for position in range(max(starts) + 1):
                for k in starts.get(position, ()):
                    site, fit = sites[k], self.fits.get(k)
                    if site is None:
                        state = self._pass(position, x, {position})
                    else:
                        total = site[1].sum(x) if fit is None else site[1].corrected(x, fit)
                        state = site[1].activation(total)
                    for later in range(self._at[k] + 1, len(parts)):
                        state = self._pass(later, state, gone)
                    sums[k] += lost_in(original, self._working.head(state))
                x = self._pass(position, x, gone)
        fits = self._way(removed, candidates) / self.every
        self.on_pass(fits + self._plain_cost(removed, candidates) * seen / self._samples)
        return {k: total / seen for k, total in sums.items()}

    def weigh(self, removed: Collection[int], tried: Mapping[int, float]) -> dict[int, float]:
        """Return the divergence after the fits, and a little of what the cut alone would do.

        That is ``CUT (1 - exp(-D))``, D the divergence without any fit, roughly: it saturates, as outputs that
        are wrong cannot become wronger.
        """
        cut = super().try_each(removed, tried, self.every)
        return {k: fitted - CUT * math.expm1(-cut[k]) for k, fitted in tried.items()}

    def settle(self, k: int, removed: Collection[int]) -> None:
        """Take in the fit of a block that goes."""
        site, fit = self._site(k, removed), self.fits.get(k)
        if site is not None and fit is not None:
            site[1].take_in(fit)

    def _fit(
        self, sites: Mapping[int, tuple[int, Line, int]], removed: Collection[int]
    ) -> dict[int, Fit | None]:
        """Return the fit of every candidate's line to the original's sums at its target."""
        moments = {k: Moments.none(line) for k, (_, line, _) in sites.items()}
        gone = {self._at[block] for block in removed}
        for (index, some), targets in zip(self._some(self.every), self._targets, strict=True):
            x = self._working.stem(self._inputs(self.images[index][some]))
            for position in range(max((site[0] for site in sites.values()), default=-1) + 1):
                for k, (start, line, target) in sites.items():
                    if start == position:
                        here, wanted = targets[target]
                        h = line.before_convolution(x)
                        left = line.remainder(at(line.finish(x, h), here), wanted)
                        moments[k].add(windows(line, h, here), left)
                x = self._pass(position, x, gone)
        return {k: own.solve() for k, own in moments.items()}

    def _pass(self, position: int, x: Tensor, gone: Collection[int]) -> Tensor:
        """Apply a part, or its skip step where its branch is gone."""
        part = self._working.parts[position]
        if position not in gone:
            return part.module(x)
        return x if part.step_is_trivial else self._steps[position](x)

    @cached_property
    def _steps(self) -> dict[int, nn.Module]:
        parts = enumerate(self._working.parts)
        return {i: part.step() for i, part in parts if part.branch is not None and not part.step_is_trivial}
