"""What a pruned network gets back without training: new statistics, and fits to the original's states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.compensation import affordable_images, can_compensate, compensate
from resprune.data import Batches
from resprune.divergence import divergence
from resprune.errors import DataError
from resprune.memory import pass_over
from resprune.reading import Progress, silent
from resprune.records import PrunePlan, Recovery
from resprune.trajectory import Batch, OnBatch

STATISTICS = "batch-norm statistics"
COMPENSATION = "compensation"
STATISTICS_IMAGES = 8192
"""More change nothing, and wait in memory, encoded."""
NOTHING_LOST = 1e-8
"""Divergence in nats below which a network's outputs are the original's but for rounding."""

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""timm's norms that carry their activation are of these classes too."""


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
    original's outputs is smaller; labels are not looked at. Norms before the first removed block see what they
    always saw, and keep their statistics. Compensation starts from the pruned network as it was cut: it
    measures statistics of its own.

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

    def judge(kind: str, seen: int, changed: ResidualChain) -> None:
        nonlocal best, least
        after = lost(changed)
        kept = after < least  # and not NaN
        record = Recovery(kind, images.summary.split, seen, held, least, after, kept, len(plan.removed))
        best, least = (changed, after) if kept else (best, least)
        steps.append((best, record))

    if norms_behind(pruned, plan.removed[0]):
        seen = min(samples - held, STATISTICS_IMAGES)
        again = pass_over(
            calibration.drawn(seen, seed),
            lambda batches, on_batch: re_estimate(pruned, batches, on_batch, first=plan.removed[0]),
            progress,
            "re-estimate",
        )
        judge(STATISTICS, seen, again)
    seen = min(samples - held, affordable_images(chain))
    if can_compensate(chain, pruned, plan):
        fitted = pass_over(
            calibration.drawn(seen, seed),
            lambda batches, on_batch: compensate(chain, pruned, plan, batches, seed=seed, on_batch=on_batch),
            progress,
            "compensate",
        )
        judge(COMPENSATION, seen, fitted)
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


def re_estimate(
    chain: ResidualChain, batches: Iterable[Batch], on_batch: OnBatch | None = None, *, first: int | None = None
) -> ResidualChain:
    """Return a copy whose batch norms have mean and variance of these images; parameters stay as they are.

    Every norm normalises with the batch's own statistics meanwhile, as in training, so that the norms behind it
    see what they will see. A norm's statistics are the averages of the batches' means and of their variances
    (unbiased, as torch stores them), weighted by numbers of images. One batch of all images would give the
    same means in the first norm, and variances that are larger by the variance of the batches' means, which
    large batches drawn at random make small.

    Exits' tensors of their own are dropped, as they describe other states, unless all blocks are left as
    they are.

    Args:
        chain: Left as it is; nothing is shared with the result, which is the chain itself where there is
            nothing to estimate.
        batches: Labels are not looked at. A batch of a single image, which has no variance in a norm behind
            the pooling, is joined to another one.
        on_batch: Told of progress.
        first: Norms before block ``first``, in the stem too, keep their statistics; None re-estimates all.

    Raises:
        DataError: where there are fewer than two images.
    """
    if not norms_behind(chain, first):
        return chain
    result = chain.duplicate()
    if first is not None and first >= chain.depth:
        own = {name: rows.clone() for name, rows in chain.exit_state.items()}
        result = replace(result, exit_state=own)
    norms, seen = norms_behind(result, first), 0
    with torch.no_grad(), _estimating(norms):
        for images in _no_single_images(batches):
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / seen  # of a running average that weights all images alike
            result(images.to(result.device, memory_format=torch.channels_last))
            if on_batch is not None:
                on_batch(len(images))
        if not seen:
            raise DataError("no images to estimate statistics on")
    return result


def norms_behind(chain: ResidualChain, first: int | None) -> list[Norm]:
    """Return the batch norms with running statistics, but for those before block ``first``, in order."""
    before: set[nn.Module] = set()
    if first is not None:
        whole = (chain.stem, *(part for b in chain.blocks[:first] for part in (*b.lead, b.part.module)))
        before = {module for part in whole for module in part.modules()}
    return [
        module
        for module in chain.network.modules()
        if isinstance(module, Norm) and module.running_mean is not None and module not in before
    ]


@contextmanager
def _estimating(norms: Iterable[Norm]) -> Iterator[None]:
    """Let norms forget their statistics and gather new ones; their modes and momenta are restored."""
    were = [(norm, norm.training, norm.momentum) for norm in norms]
    try:
        for norm, *_ in were:
            norm.reset_running_stats()
            norm.training = True  # of the norm alone: some have dropout inside
        yield
    finally:
        for norm, training, momentum in were:
            norm.training, norm.momentum = training, momentum


def _no_single_images(batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Yield the images (n, c, h, w) of batches, n > 1 everywhere.

    Raises:
        DataError: where there is one image altogether.
    """
    ready: list[Tensor] = []
    spare: list[Tensor] = []
    for images, _ in batches:
        (ready if sum(map(len, ready)) < 2 else spare).append(images)
        if sum(map(len, spare)) >= 2:
            yield torch.cat(ready)
            ready, spare = spare, []
    if rest := ready + spare:
        if sum(map(len, rest)) < 2:
            raise DataError("a single image has no statistics", hint="give more images")
        yield torch.cat(rest)
