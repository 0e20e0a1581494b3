"""What a pruned network gets back without training: new statistics, and fits to the original's states."""

from __future__ import annotations

import math

from resprune.chain import ResidualChain
from resprune.compensation import affordable_images, can_compensate, compensate
from resprune.data import Batches
from resprune.divergence import divergence
from resprune.memory import pass_over
from resprune.norms import match, norms_behind, re_estimate
from resprune.reading import Progress, silent
from resprune.records import PrunePlan, Recovery

STATISTICS = "batch-norm statistics"
COMPENSATION = "compensation"
STATISTICS_IMAGES = 8192
"""More change nothing, and wait in memory, encoded."""
MATCHED_IMAGES = 1024
"""Where both networks see the same images, more change nothing: 512 and 2,048 give the same to a hundredth."""
NOTHING_LOST = 1e-8
"""Divergence in nats below which a network's outputs are the original's but for rounding."""


def recover(
    chain: ResidualChain,
    pruned: ResidualChain,
    plan: PrunePlan,
    images: Batches,
    *,
    seed: int = 0,
    progress: Progress,
) -> list[tuple[ResidualChain, Recovery]]:
    """Try what brings a pruned network's outputs back without training: new statistics, then compensation.

    Each is kept where it helps, that is, where on images that nothing was fitted to the divergence from the
    original's outputs is smaller; labels are not looked at. Of two kinds of statistics (`resprune.norms`) the
    better is taken; norms before the first removed block see what they always saw, and keep theirs.
    Compensation starts from the pruned network as it was cut: it measures statistics of its own.

    Args:
        chain: The original.
        pruned: What became of it.
        plan: Carried out.
        images: A tenth of them, at least one batch and at most half, is held out.
        seed: Of the images held out.
        progress: Opened with a description and a number of images.

    Returns:
        What was tried, in turn, each with the best network so far. Nothing where the outputs are the
        original's already, or where there are fewer than three images.
    """
    samples = len(images.source)
    held = min(max(round(samples / 10), images.batch_size), samples // 2)
    if not plan.removed or samples < 3:
        return []
    held_out, calibration = images.divide(held, seed)

    def lost(network: ResidualChain) -> float:
        return lost_by(chain, network, held_out, progress)

    least = lost(pruned)
    steps: list[tuple[ResidualChain, Recovery]] = []
    if least <= NOTHING_LOST:
        return steps
    best = pruned

    def judge(kind: str, *tried: tuple[ResidualChain, int]) -> None:
        nonlocal best, least
        rated = ((lost(network), network, seen) for network, seen in tried)
        after, changed, seen = min(rated, key=lambda one: math.inf if math.isnan(one[0]) else one[0])
        kept = after < least  # and not NaN
        record = Recovery(kind, images.summary.split, seen, held, least, after, kept, len(plan.removed))
        best, least = (changed, after) if kept else (best, least)
        steps.append((best, record))

    if norms_behind(pruned, plan.removed[0]):
        many = min(samples - held, STATISTICS_IMAGES)
        few = min(samples - held, MATCHED_IMAGES)
        anew = pass_over(
            calibration.drawn(many, seed),
            lambda batches, on_batch: re_estimate(pruned, batches, on_batch, first=plan.removed[0]),
            progress,
            "re-estimate",
        )
        alike = pass_over(
            calibration.drawn(few, seed),
            lambda batches, on_batch: match(chain, pruned, plan, batches, on_batch),
            progress,
            "match",
        )
        judge(STATISTICS, (anew, many), (alike, few))
    seen = min(samples - held, affordable_images(chain))
    if can_compensate(chain, pruned, plan):
        fitted = pass_over(
            calibration.drawn(seen, seed),
            lambda batches, on_batch: compensate(chain, pruned, plan, batches, seed=seed, on_batch=on_batch),
            progress,
            "compensate",
        )
        judge(COMPENSATION, (fitted, seen))
    return steps


def lost_by(
    chain: ResidualChain, network: ResidualChain, images: Batches, progress: Progress = silent
) -> float:
    """Return how far a network's outputs on images are from the original's; see `resprune.divergence`."""
    return pass_over(
        images,
        lambda batches, on_batch: divergence(chain, network, batches, on_batch=on_batch),
        progress,
        "compare",
    )
