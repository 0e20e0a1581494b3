"""Accuracy against multiply-accumulates and time, for all depths along one order of removals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from resprune.chain import ResidualChain
from resprune.data import CHOICE_FIRST, Batches
from resprune.divergence import kl
from resprune.latency import images_to_time, measure
from resprune.memory import pass_over
from resprune.reading import Data, Progress, batches_for, calibration_images, silent
from resprune.records import Figures, Frontier, Method, Point, PrunePlan, Recipe
from resprune.recovery import STATISTICS
from resprune.restoration import CHOICE_IMAGES, OnEpoch, Restoration
from resprune.savings import prices, savings
from resprune.sensitivity import order_removals
from resprune.surgery import remove_blocks, skip_blocks
from resprune.trajectory import OnBatch, Tally


def frontier(
    chain: ResidualChain,
    data: Data | None = None,
    *,
    method: Method = "surgical",
    recover: bool = True,
    heal: Recipe | None = None,
    split: str | None = None,
    samples: int = CHOICE_IMAGES,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    latency_batch: int = 1,
    progress: Progress = silent,
    on_epoch: OnEpoch = lambda row: None,
    tell: Callable[[Point], None] = lambda point: None,
) -> Frontier:
    """Measure the network without its least block, without its least two, and so on to none.

    Half of the images judge; the order of removals, statistics and compensation come from the others. Where a
    healing trains on that split, both halves are of the images that it holds out and chooses its epoch on. The
    test images are not for this: what is chosen on a frontier is measured on them afterwards, by
    `resprune.prune`.

    Args:
        chain: The network; left as it is.
        data: Images; without labels there are no accuracies and losses, but divergences.
        method: Which blocks may go next; see `resprune.sensitivity.removals`.
        recover: Also bring every network back without training, and choose the blocks as after that.
        heal: Train every network by this recipe too.
        split: By default validation, else train.
        samples: Use so many images at most.
        seed: Of everything drawn.
        batch_size: Of images that are not trained on.
        device: For healing.
        latency_batch: Images of a call that is timed; they are seeded noise.
        progress: Shown the images done.
        on_epoch: Told of every epoch of a healing.
        tell: Told of every point; its time is measured with the others', at the beginning.

    Raises:
        DataError, UsageError: where there is nothing to read, or it does not fit.
        ArchitectureError: where the network's logits are not finite.
    """
    reading = {"split": split, "seed": seed, "batch_size": batch_size}
    images = batches_for(chain, data, samples=samples, order=CHOICE_FIRST, **reading)
    restoration = Restoration.open(
        chain,
        data,
        recover=recover,
        heal=heal,
        samples=samples,
        device=device,
        progress=progress,
        on_epoch=on_epoch,
        **reading,
    )
    judging, others, restoration = restoration.divided(images)
    wish = {"method": method, "compensated": recover, "price": prices(savings(chain)), "seed": seed}
    order = [removal.index for removal in order_removals(chain, calibration_images(others, seed), **wish)]
    gone = [tuple(sorted(order[:count])) for count in range(chain.depth + 1)]
    # Skipping blocks on the fly is the pruned network's work without its copy of the weights.
    networks = [partial(_without, chain, removed) for removed in gone]
    times = measure(networks, images_to_time(chain, latency_batch, seed))
    judge, points = Judge(chain, judging, progress), list[Point]()
    for removed, latency in zip(gone, times, strict=True):
        rule, turn = f"{method}, {len(removed)} blocks", tuple(order[: len(removed)])
        plan = PrunePlan.without(removed, chain.depth, rule, turn)
        cut = remove_blocks(chain, plan)
        raw = recovered = judge(cut)
        statistics = None
        for network, tried in restoration.restore(cut, plan).steps:
            if tried.kept:
                recovered = judge(network)
            if tried.kind == STATISTICS:
                statistics = recovered
        size = cut.summary
        points.append(
            Point(removed, plan.depth, size.macs, size.parameters, latency, raw, statistics, recovered)
        )
        tell(points[-1])
    seen = judging.with_others(others)
    return Frontier(chain.summary, judging.summary, seen, method, tuple(order), tuple(points))


def _without(chain: ResidualChain, removed: tuple[int, ...], images: Tensor) -> Tensor:
    return skip_blocks(chain, images, removed)


@dataclass(frozen=True)
class Judge:
    """Measures networks against labels and against the original, whose outputs are computed once.

    Attributes:
        chain: The original.
        batches: Labelled or not.
        progress: Shown the images done.
    """

    chain: ResidualChain
    batches: Batches
    progress: Progress

    @cached_property
    def _original(self) -> Tensor:
        """Logits (images, classes)."""

        def logits(batches: Batches, on_batch: OnBatch) -> Tensor:
            with torch.inference_mode():
                return torch.cat([self._logits(self.chain, images) for images, _ in batches])

        return pass_over(self.batches, logits, silent, "judge")

    def __call__(self, network: ResidualChain) -> Figures:
        """Return the figures of a network."""
        original = self._original
        return pass_over(
            self.batches,
            lambda batches, on_batch: self._judged(network, batches, original, on_batch),
            self.progress,
            "judge",
        )

    @torch.inference_mode()
    def _judged(self, network: ResidualChain, batches: Batches, original: Tensor, on_batch: OnBatch) -> Figures:
        tally, total = Tally(1), 0.0
        for images, labels in batches:
            logits = self._logits(network, images)
            total += kl(original[tally.samples : tally.samples + len(images)], logits)
            tally.add(logits.unsqueeze(1), None if labels is None else labels.to(logits.device))
            on_batch(len(images))
        return Figures(tally.result(), max(0.0, total / tally.samples))

    def _logits(self, network: ResidualChain, images: Tensor) -> Tensor:
        return network(images.to(self.chain.device, memory_format=torch.channels_last))
