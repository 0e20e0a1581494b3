"""Accuracy against multiply-accumulates and time, for all depths along one order of removals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from resprune.chain import ResidualChain
from resprune.data import CHOICE_FIRST
from resprune.judging import Judge
from resprune.latency import images_to_time, measure
from resprune.reading import Data, Progress, batches_for, calibration_images, silent
from resprune.records import Frontier, Method, Point, PrunePlan, Recipe
from resprune.recovery import STATISTICS
from resprune.restoration import CHOICE_IMAGES, OnEpoch, Restoration
from resprune.savings import prices, savings
from resprune.sensitivity import order_removals
from resprune.surgery import remove_blocks, skip_blocks


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
