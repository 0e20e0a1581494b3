"""What a pruned network gets back without training: new statistics, and fits to the original's states."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from resprune.chain import ResidualChain
from resprune.compensation import affordable_images, can_compensate, compensate
from resprune.data import Batches
from resprune.judging import Judge
from resprune.memory import halving, pass_over
from resprune.norms import match, norms_behind, re_estimate
from resprune.reading import Progress
from resprune.records import PrunePlan, Recovery

STATISTICS = "batch-norm statistics"
COMPENSATION = "compensation"
STATISTICS_IMAGES = 8192
"""More change nothing, and wait in memory, encoded."""
MATCHED_IMAGES = 1024
"""Where both networks see the same images, more change nothing: 512 and 2,048 give the same to a hundredth."""
NOTHING_LOST = 1e-8
"""Divergence in nats below which a network's outputs are the original's but for rounding."""


@dataclass(frozen=True)
class Recoverer:
    """Tries what brings pruned networks' outputs back without training; labels are not looked at.

    Attributes:
        chain: The original.
        images: A tenth of them, at least one batch and at most half, is held out.
        seed: Of the images held out.
        progress: Opened with a description and a number of images.
    """

    chain: ResidualChain
    images: Batches
    seed: int
    progress: Progress

    @property
    def held(self) -> int:
        """Number of images held out."""
        samples = len(self.images.source)
        return min(max(round(samples / 10), self.images.batch_size), samples // 2)

    @cached_property
    def _judge(self) -> Judge:
        """On images that nothing is fitted to."""
        return Judge(self.chain, self.images.divide(self.held, self.seed)[0], self.progress)

    def _drawn(self, most: int) -> Batches:
        """Return the other images, or so many drawn from them."""
        others = self.images.divide(self.held, self.seed)[1]
        return others.drawn(min(len(others.source), most), self.seed)

    def recover(self, pruned: ResidualChain, plan: PrunePlan) -> list[tuple[ResidualChain, Recovery]]:
        """Try new statistics, then compensation.

        Each is kept where it helps, that is, where on the images held out the divergence from the original's
        outputs is smaller. Of two kinds of statistics (`resprune.norms`) the better is taken; norms before the
        first removed block see what they always saw, and keep theirs. Compensation starts from the pruned
        network as it was cut: it measures statistics of its own.

        Args:
            pruned: What became of the original; left as it is.
            plan: Carried out.

        Returns:
            What was tried, in turn, each with the best network so far. Nothing where the outputs are the
            original's already, or where there are fewer than three images.
        """
        steps: list[tuple[ResidualChain, Recovery]] = []
        if not plan.removed or len(self.images.source) < 3:
            return steps
        best, least = pruned, self._judge.divergence(pruned)
        if least <= NOTHING_LOST:
            return steps
        for kind, tried in self._ways(pruned, plan):
            rated = [(self._judge.divergence(network), network, seen) for network, seen in tried]
            after, changed, seen = min(rated, key=lambda one: math.inf if math.isnan(one[0]) else one[0])
            kept = after < least or (math.isnan(least) and not math.isnan(after))
            split, held = self.images.summary.split, self.held
            record = Recovery(kind, split, seen, held, least, after, kept, len(plan.removed))
            best, least = (changed, after) if kept else (best, least)
            steps.append((best, record))
        return steps

    def _ways(
        self, pruned: ResidualChain, plan: PrunePlan
    ) -> Iterator[tuple[str, list[tuple[ResidualChain, int]]]]:
        """Yield what can be done, in turn: the networks that it gives, each with the number of images seen."""
        chain, progress, first = self.chain, self.progress, plan.removed[0]
        if norms_behind(pruned, first):
            many, few = self._drawn(STATISTICS_IMAGES), self._drawn(MATCHED_IMAGES)
            anew = pass_over(
                many,
                lambda batches, on_batch: re_estimate(pruned, batches, on_batch, first=first),
                progress,
                "re-estimate",
            )
            alike = pass_over(
                few,
                lambda batches, on_batch: match(chain, pruned, plan, batches, on_batch),
                progress,
                "match",
            )
            yield STATISTICS, [(anew, len(many.source)), (alike, len(few.source))]
        if can_compensate(chain, pruned, plan):
            yield COMPENSATION, [self._compensated(pruned, plan)]

    def _compensated(self, pruned: ResidualChain, plan: PrunePlan) -> tuple[ResidualChain, int]:
        """Return the network with fits, and on how many images: all their states are in memory at once."""

        def fit(count: int) -> tuple[ResidualChain, int]:
            seen = self._drawn(count)
            with self.progress("compensate", seen.summary.samples) as on_batch:
                fitted = compensate(self.chain, pruned, plan, seen, seed=self.seed, on_batch=on_batch)
            return fitted, len(seen.source)

        most = len(self._drawn(affordable_images(self.chain)).source)
        return halving(fit, most, "compensate", sized="the states of {} images")
