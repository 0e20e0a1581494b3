"""A budget becomes a plan: which blocks go, and how many of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice

import torch
from torch import Tensor

from resprune import trajectory
from resprune.chain import ResidualChain, seeded_images
from resprune.data import CHOICE_FIRST, Batches, is_small
from resprune.errors import BudgetError, DataError, UsageError
from resprune.latency import block_prices, measure
from resprune.reading import Data, Progress, batches_for, silent
from resprune.records import Alternative, Budget, DataSummary, Method, PrunePlan, Recipe, Removal, Speed
from resprune.restoration import CHOICE_IMAGES, Restoration, Step
from resprune.search import parameter_savings, savings
from resprune.selection import surgical
from resprune.sensitivity import removals
from resprune.surgery import remove_blocks

SMALL_IMAGES, LARGE_IMAGES = 512, 128
"""How many images at most the order of removals is found on; a large one has many pixels."""
Clock = Callable[[ResidualChain], Speed]
"""Measures how many times faster a network is than the original."""


@dataclass(frozen=True)
class Candidate:
    """A plan that was tried.

    Attributes:
        plan: Which blocks go.
        drop: Points of accuracy lost on the images that judge; None where none was asked for.
        steps: What brought the network back; the last is what would be written. None where it was not tried.
    """

    plan: PrunePlan
    drop: float | None = None
    steps: list[Step] | None = None


@dataclass(frozen=True)
class Choice:
    """What `choose_for` chose.

    Attributes:
        plan: Which blocks go.
        data: The images that it was chosen on.
        restored: What brought the network back when its accuracy was judged; None where it was not tried.
        drop: Points of accuracy lost on the images that judged; None where none was asked for.
    """

    plan: PrunePlan
    data: DataSummary
    restored: list[Step] | None = None
    drop: float | None = None


def choose_for(
    chain: ResidualChain,
    data: Data | None,
    budget: Budget,
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
    tell: Callable[[Candidate], None] = lambda candidate: None,
) -> Choice:
    """Choose the plan that a budget asks for, on images that are not the test's where there are others.

    Args:
        chain: The network.
        data: Images; labelled where accuracy is asked for.
        budget: What is wished for.
        method: Which blocks may go: see `resprune.sensitivity.removals`.
        recover: Choose blocks, and judge their loss, as after compensation.
        heal: The same after healing by this recipe, which is done for every number of removals that is tried.
        split: By default validation, else train.
        samples: Use so many images at most.
        seed: Of everything drawn.
        batch_size: Of images that are not trained on.
        device: For healing.
        latency_batch: Number of images at once that the network is to be fast for.
        progress: Shown the images done.
        tell: Told of every number of removals whose accuracy was measured.

    Raises:
        BudgetError: where it cannot be had; it says how close one gets.
        DataError: where accuracy is asked for and there are no labels.
        UsageError: where the wishes contradict each other.
    """
    if not budget:
        raise UsageError("no budget given", hint="for example --target-macs 0.6, or --max-drop 0.5")
    reading = {"split": split, "seed": seed, "batch_size": batch_size}
    images = batches_for(chain, data, samples=samples, order=CHOICE_FIRST, **reading)
    restoration = Restoration(chain, None, None, seed, progress)
    judge = None
    if budget.max_drop is not None:
        if not images.labelled:
            raise DataError(
                "there are no labels to measure a drop of accuracy with",
                where=images.summary.spec,
                hint="use labelled images, or --target-macs",
            )
        restoration = Restoration.open(
            chain,
            data,
            recover=recover,
            heal=heal,
            samples=samples,
            device=device,
            progress=progress,
            **reading,
        )
        judge, restoration = restoration.divided(images)
    seen, batches = list[Tensor](), iter(images)
    enough = SMALL_IMAGES if is_small(chain.preprocessing) else LARGE_IMAGES
    while sum(map(len, seen)) < min(enough, images.summary.samples):
        seen.append(next(batches)[0])
    by_parameters = budget.macs is None and budget.parameters is not None
    price: Sequence[float] = parameter_savings(chain) if by_parameters else savings(chain)
    clock = None
    if budget.speedup is not None:
        noise = seeded_images(chain.preprocessing, latency_batch, seed).to(chain.device)
        noise = noise.contiguous(memory_format=torch.channels_last)
        price, clock = block_prices(chain, noise), partial(_speed, chain, noise)
    chooser = Chooser(
        chain=chain,
        images=seen,
        budget=budget,
        method=method,
        compensated=recover,
        price=price,
        clock=clock,
        judge=judge,
        restoration=restoration,
        tell=tell,
    )
    best = chooser.choose()
    return Choice(best.plan, images.summary, best.steps, best.drop)


def _speed(chain: ResidualChain, images: Tensor, other: ResidualChain) -> Speed:
    """Measure a network against the original, in turns, on images (n, c, h, w)."""
    whole, cut = measure([chain, other], images)
    ratio = whole.ratio_to(cut)
    return Speed(ratio.median, (ratio.low, ratio.high), len(images), whole.threads, whole.device)


@dataclass(frozen=True)
class Chooser:
    """Finds the plan that a budget asks for.

    Attributes:
        chain: The original.
        images: Batches (n, c, h, w), preprocessed, that the order of removals is found on.
        budget: What is wished for.
        method: See `resprune.sensitivity.removals`.
        compensated: See there.
        price: What each block's removal is worth, positive; decides between blocks.
        clock: Measures a network; needed for a speedup.
        judge: Labelled images that a drop is measured on; needed for one.
        restoration: What is done to a network before its accuracy counts.
        tell: Told of every candidate whose accuracy was measured.
        measured: Speeds so far, by the blocks that are gone: what decided is what is told.
    """

    chain: ResidualChain
    images: Sequence[Tensor]
    budget: Budget
    method: Method
    compensated: bool
    price: Sequence[float]
    clock: Clock | None
    judge: Batches | None
    restoration: Restoration
    tell: Callable[[Candidate], None]
    measured: dict[frozenset[int], Speed] = field(default_factory=dict)

    def choose(self) -> Candidate:
        """Return the plan: as few removals as the sizes ask for, or as many as the accuracy allows.

        Raises:
            BudgetError: where it cannot be had.
        """
        self.check()
        coming = removals(
            self.chain,
            self.images,
            method=self.method,
            compensated=self.compensated,
            price=self.price,
            seed=self.restoration.seed,
        )
        if self.budget.sizes:
            found: list[Removal] = []
            while not self._reached(found):
                removal = next(coming, None)
                if removal is None:
                    raise self._too_slow(found)
                found.append(removal)
            best = self._judged(found)
            if self.budget.speedup is not None:
                best = replace(best, plan=replace(best.plan, speed=self._speed(best.plan.removed)))
            if best.drop is not None and self.budget.max_drop is not None and best.drop > self.budget.max_drop:
                raise BudgetError(
                    f"{self.budget}: not both; {len(found)} blocks must go for the first, and cost"
                    f" {best.drop:.2f} points",
                    where=self.chain.origin.path,
                    hint="allow more, ask for less, or heal with --heal EPOCHS",
                )
        else:
            best = self._as_many_as_possible(coming)
        return replace(best, plan=replace(best.plan, beside=self._beside(best.plan)))

    def _reached(self, found: Sequence[Removal]) -> bool:
        """Whether sizes and speed are what the budget asks for; the clock is asked last."""
        gone = [removal.index for removal in found]
        for limit, total, saved in self._sizes:
            if total - sum(saved[k] for k in gone) > limit * total:
                return False
        if self.budget.speedup is None:
            return True
        return bool(gone) and self._speed(gone).factor >= self.budget.speedup

    def _speed(self, gone: Sequence[int]) -> Speed:
        assert self.clock is not None
        key = frozenset(gone)
        if key not in self.measured:
            kept = tuple(k for k in range(self.chain.depth) if k not in gone)
            cut = remove_blocks(self.chain, PrunePlan("speed", tuple(sorted(gone)), kept))
            self.measured[key] = self.clock(cut)
        return self.measured[key]

    @cached_property
    def _sizes(self) -> list[tuple[float, int, tuple[int, ...]]]:
        """Return limit, total, and what each block's removal saves, for every size that is limited."""
        chain, sizes = self.chain, []
        if self.budget.macs is not None:
            sizes.append((self.budget.macs, chain.summary.macs, savings(chain)))
        if self.budget.parameters is not None:
            sizes.append((self.budget.parameters, chain.summary.parameters, parameter_savings(chain)))
        return sizes

    def check(self) -> None:
        """Refuse sizes that no removal leads to, before anything is measured.

        Raises:
            BudgetError: says how close one gets.
        """
        units = [unit for unit in ("macs", "parameters") if getattr(self.budget, unit) is not None]
        for unit, (limit, total, saved) in zip(units, self._sizes, strict=True):
            least = (total - sum(saved)) / total
            if least > limit:
                name = "MACs" if unit == "macs" else unit
                raise BudgetError(
                    f"{limit:g} of the {name} cannot be reached: stem, projections and head are"
                    f" {least:.3g} of them",
                    where=self.chain.origin.path,
                    hint=f"ask for {math.ceil(1e4 * least) / 1e4:g} or more",
                )

    def _too_slow(self, found: Sequence[Removal]) -> BudgetError:
        """Return what says how fast the network is without any block."""
        fastest = self._speed([removal.index for removal in found]).factor
        return BudgetError(
            f"a speedup of {self.budget.speedup:g} cannot be reached: without any block it is {fastest:.2f}",
            where=self.chain.origin.path,
            hint="ask for less, or measure with other --threads or --latency-batch",
        )

    def _as_many_as_possible(self, coming: Iterator[Removal]) -> Candidate:
        """Double the number of removals until too much accuracy is lost, then halve the interval."""
        limit, found = self.budget.max_drop, list[Removal]()
        assert limit is not None
        best, low, high, first = Candidate(self._plan(())), 0, self.chain.depth + 1, None
        count = 1
        while high - low > 1:
            found += islice(coming, max(0, count - len(found)))
            tried = self._judged(found[:count])
            assert tried.drop is not None
            first = tried if count == 1 else first
            if tried.drop <= limit:
                best, low = tried, count
            else:
                high = count
            count = min(2 * count, self.chain.depth) if high > self.chain.depth else (low + high) // 2
        if not low:
            lost = "" if first is None or first.drop is None else f": the first costs {first.drop:.2f} points"
            raise BudgetError(
                f"no block can go with {self.budget}{lost}",
                where=self.chain.origin.path,
                hint="allow more, or heal with --heal EPOCHS",
            )
        return best

    def _judged(self, found: Sequence[Removal]) -> Candidate:
        """Carry removals out, and measure what they cost where that is limited."""
        plan = self._plan(found)
        if self.judge is None or self.budget.max_drop is None:
            return Candidate(plan)
        cut = remove_blocks(self.chain, plan)
        steps = self.restoration.steps(cut, plan)
        accuracy = trajectory.evaluate(steps[-1][0] if steps else cut, self.judge).accuracy
        assert accuracy is not None
        candidate = Candidate(plan, round(100 * (self._accuracy - accuracy), 9), steps)
        self.tell(candidate)
        return candidate

    @cached_property
    def _accuracy(self) -> float:
        assert self.judge is not None
        accuracy = trajectory.evaluate(self.chain, self.judge).accuracy
        assert accuracy is not None
        return accuracy

    def _plan(self, found: Sequence[Removal]) -> PrunePlan:
        return surgical(found, self.chain.depth, f"{self.method}, {self.budget}")

    def _beside(self, plan: PrunePlan) -> tuple[Alternative, ...]:
        """Return what taking blocks from the end would do, for the same sizes or as many blocks."""
        if self.method == "tail" or plan.is_tail:
            return ()
        coming = removals(self.chain, self.images, method="tail", compensated=self.compensated)
        by_size = bool(self._sizes) and self.budget.speedup is None
        found: list[Removal] = []
        while (not self._reached(found)) if by_size else len(found) < len(plan.removed):
            found += islice(coming, 1)
        gone = tuple(sorted(removal.index for removal in found))
        saved = savings(self.chain)
        macs = self.chain.summary.macs - sum(saved[k] for k in gone)
        return (Alternative("tail", gone, found[-1].divergence, macs),)
