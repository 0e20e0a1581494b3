"""Networks to compare a pruned one with: as many blocks removed at random, and the same shape from scratch.

Similarity scores mislead: a choice is worth something where it beats a random one by more than random ones
differ, and weights that were kept where training from scratch for as long does worse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from resprune import trajectory
from resprune.chain import ResidualChain
from resprune.data import Batches
from resprune.errors import DataError, UsageError
from resprune.fresh import check_initialisable
from resprune.memory import pass_over
from resprune.reading import Progress
from resprune.records import Band, Control, Evaluation, PrunePlan
from resprune.restoration import Restoration
from resprune.surgery import remove_blocks, skip_blocks
from resprune.trajectory import Batch, OnBatch

KINDS = ("random", "scratch")
OnControl = Callable[[str, int, tuple[int, ...]], None]
"""Told of a network to compare with before it is made: its kind, its seed, and the blocks it is without."""
BAND_SEEDS = 5
"""How many random removals `analyze` tries."""


@dataclass(frozen=True)
class Measure:
    """Figures of a network on the images of a report.

    Attributes:
        batches: Labelled or not.
        progress: Shown the images done.
    """

    batches: Batches
    progress: Progress

    def __call__(self, chain: ResidualChain) -> Evaluation:
        """Return them; no accuracy and loss without labels."""
        if not self.batches.labelled:
            return Evaluation(None, None, None, self.batches.summary.samples)
        return pass_over(
            self.batches,
            lambda images, on_batch: trajectory.evaluate(chain, images, on_batch=on_batch),
            self.progress,
            "evaluate",
        )


def check_controls(kinds: Sequence[str], chain: ResidualChain, *, heals: bool, images: bool) -> None:
    """Refuse controls that there is no way to make or measure, before anything is computed.

    Args:
        kinds: Of controls.
        chain: The original.
        heals: Whether there is a healing.
        images: Whether there are images.

    Raises:
        UsageError: says what is missing.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"no control {kind!r}", hint=f"choose from {', '.join(KINDS)}")
    if "scratch" in kinds and not heals:
        raise UsageError(
            "the control from scratch trains for as long as the healing, and there is none",
            hint="add --heal EPOCHS",
        )
    if kinds and not images:
        raise UsageError("controls are compared on images", hint="name some with --data")
    if "scratch" in kinds:
        check_initialisable(chain.network)


def check_labels(kinds: Sequence[str], restoration: Restoration | None, batches: Batches) -> None:
    """Refuse controls that there is nothing to compare by, and training from scratch on images without labels.

    Args:
        kinds: Of controls.
        restoration: With the images of a healing.
        batches: That all networks are measured on.

    Raises:
        DataError: where that was asked for.
    """
    if kinds and not batches.labelled:
        raise DataError(
            "there are no labels, and controls are compared by their accuracies",
            where=batches.summary.spec,
            hint="use labelled images, or leave the controls out",
        )
    healer = None if restoration is None else restoration.healer
    if "scratch" in kinds and healer is not None and not healer.images.labelled:
        raise DataError(
            "there are no labels for the control from scratch, which has no teacher",
            where=healer.images.summary.spec,
            hint="use labelled images, or --control random",
        )


def random_plans(
    chain: ResidualChain, count: int, draws: int, *, but: tuple[int, ...] | None = None
) -> dict[int, PrunePlan]:
    """Return plans that each remove so many blocks, by the seed that drew them: 0, 1, ..., each set once.

    They are fewer than the draws asked for where there are fewer sets of so many blocks. The set ``but``, in
    ascending order, is left out.
    """
    plans, drawn = dict[int, PrunePlan](), set[tuple[int, ...]]() if but is None else {but}
    sets = math.comb(chain.depth, count) - len(drawn)
    for seed in itertools.count():
        if len(plans) == min(draws, sets):
            return plans
        generator = torch.Generator().manual_seed(seed)
        removed = tuple(sorted(torch.randperm(chain.depth, generator=generator)[:count].tolist()))
        if removed not in drawn:
            drawn.add(removed)
            plans[seed] = PrunePlan.without(removed, chain.depth, f"random, seed {seed}")
    raise AssertionError("counting ends")


@torch.inference_mode()
def random_band(
    chain: ResidualChain, batches: Iterable[Batch], count: int, *, on_batch: OnBatch | None = None
) -> Band:
    """Return how far removing so many blocks at random moves the output, for `BAND_SEEDS` draws at most.

    Args:
        chain: The network.
        batches: Images; labels are not looked at.
        count: Number of blocks that each draw removes.
        on_batch: Told of progress.

    Raises:
        DataError: where there are no images.
    """
    plans = [plan.removed for plan in random_plans(chain, count, BAND_SEEDS).values()]
    shifts = torch.zeros(len(plans), 2, dtype=torch.float64)
    square, samples = 0.0, 0
    for images, _ in batches:
        inputs = images.to(chain.device, memory_format=torch.channels_last)
        final = chain(inputs)
        square += float(final.square().sum(dtype=torch.float64))
        samples += len(images)
        for draw, removed in enumerate(plans):
            shifts[draw] += trajectory.shift(final, skip_blocks(chain, inputs, removed))
        if on_batch is not None:
            on_batch(len(images))
    if not samples:
        raise DataError("no images to measure on")
    changes, same = shifts.T
    return Band(count, tuple((changes / square).sqrt().tolist()), tuple((same / samples).tolist()))


def compare_with(
    kinds: Sequence[str],
    seeds: int,
    chain: ResidualChain,
    plan: PrunePlan,
    restoration: Restoration | None,
    measure: Callable[[ResidualChain], Evaluation],
    *,
    on_control: OnControl = lambda kind, seed, removed: None,
) -> tuple[Control, ...]:
    """Return what became of networks made the same way.

    Args:
        kinds: ``random``: as many blocks removed at random, never the plan's, and brought back the same way.
            ``scratch``: the plan's shape, trained from scratch as the plan's network is healed, without a
            teacher.
        seeds: Number of networks of each kind; random ones are fewer where there are fewer sets of blocks.
        chain: The original.
        plan: To compare with.
        restoration: What the plan's network was brought back with; None for nothing.
        measure: Gives the figures of a network.
        on_control: Told of every one before it is made.
    """
    found: list[Control] = []
    for kind in kinds if plan.removed else ():
        same = dict.fromkeys(range(seeds), plan)
        plans = random_plans(chain, len(plan.removed), seeds, but=plan.removed) if kind == "random" else same
        for seed, other in plans.items():
            on_control(kind, seed, other.removed)
            network, raw = remove_blocks(chain, other), None
            if kind == "random":
                raw = measure(network)
                network = network if restoration is None else restoration.restore(network, other).network
            else:
                assert restoration is not None
                assert restoration.healer is not None
                network = restoration.healer.from_scratch(network, seed, restoration.rounds_for(plan))
            found.append(Control(kind, seed, other.removed, network.summary.macs, raw, measure(network)))
    return tuple(found)
