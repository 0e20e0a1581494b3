"""A budget becomes a plan: which blocks go, and how many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from resprune import trajectory
from resprune.allowance import Allowance, Clock
from resprune.chain import ResidualChain
from resprune.data import CHOICE_FIRST, Batches
from resprune.errors import BudgetError, DataError, UsageError
from resprune.latency import block_prices, images_to_time, measure
from resprune.memory import pass_over
from resprune.reading import Data, Progress, batches_for, calibration_images, silent
from resprune.records import Alternative, Budget, DataSummary, Method, PrunePlan, Recipe, Removal, Speed
from resprune.restoration import CHOICE_IMAGES, Restoration, Restored
from resprune.search import parameter_savings, prices, savings
from resprune.selection import surgical
from resprune.sensitivity import removals
from resprune.surgery import remove_blocks


@dataclass(frozen=True)
class Candidate:
    """A plan that was tried.

    Attributes:
        plan: Which blocks go.
        drop: Points of accuracy lost on the images that judge; None where none was asked for.
        restored: The network that would be written; None where it was not made.
    """

    plan: PrunePlan
    drop: float | None = None
    restored: Restored | None = None


@dataclass(frozen=True)
class Choice:
    """What `choose_for` chose.

    Attributes:
        plan: Which blocks go.
        data: The images that it was chosen and judged on; None where none were read.
        restored: The network whose accuracy was judged; None where none was made.
        drop: Points of accuracy lost on the images that judged; None where none was asked for.
    """

    plan: PrunePlan
    data: DataSummary | None
    restored: Restored | None = None
    drop: float | None = None


def choose_for(
    chain: ResidualChain,
    data: Data | None,
    budget: Budget,
    *,
    plan: PrunePlan | None = None,
    method: Method = "surgical",
    recover: bool = True,
    heal: Recipe | None = None,
    heal_rounds: int = 1,
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
        plan: Where the blocks are named already; the budget is then a condition, and images are read only to
            judge a drop.
        method: Which blocks may go: see `resprune.sensitivity.removals`.
        recover: Choose blocks, and judge their loss, as after compensation.
        heal: The same after healing by this recipe, which is done for every number of removals that is tried.
        heal_rounds: See `resprune.prune`.
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
    allowance = Allowance(chain, budget, None if budget.speedup is None else _clock(chain, latency_batch, seed))
    allowance.check()
    if plan is not None and budget.max_drop is None:
        return Choice(_confirmed(allowance, plan), None)
    reading = {"split": split, "seed": seed, "batch_size": batch_size}
    images = batches_for(chain, data, samples=samples, order=CHOICE_FIRST, **reading)
    restoration = Restoration(chain, None, None, seed, progress)
    judge, others, seen = None, images, images.summary
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
            rounds=heal_rounds,
            samples=samples,
            device=device,
            progress=progress,
            **reading,
        )
        judge, others, restoration = restoration.divided(images)
        seen = judge.with_others(others)
    chooser = Chooser(
        chain=chain,
        images=others,
        allowance=allowance,
        method=method,
        compensated=recover,
        price=_prices(chain, budget, latency_batch, seed),
        judge=judge,
        restoration=restoration,
        tell=tell,
    )
    best = chooser.choose() if plan is None else chooser.judged(_confirmed(allowance, plan))
    return Choice(best.plan, seen, best.restored, best.drop)


def _confirmed(allowance: Allowance, plan: PrunePlan) -> PrunePlan:
    """Return a plan that keeps to what the budget allows.

    Raises:
        BudgetError: where it does not.
    """
    missed = allowance.missed(plan.removed)
    if missed is not None:
        raise BudgetError(
            f"the plan ({plan.rule}) and {allowance.budget}: not both; {missed}",
            where=allowance.chain.origin.path,
            hint="ask for less, name other blocks, or leave the choice to the budget",
        )
    rule = f"{plan.rule}; {allowance.budget}"
    return replace(plan, rule=rule, speed=allowance.told_speed(plan.removed))


def _prices(chain: ResidualChain, budget: Budget, latency_batch: int, seed: int) -> Sequence[float]:
    """Return what each block's removal is worth for a budget."""
    if budget.speedup is not None:
        return block_prices(chain, images_to_time(chain, latency_batch, seed))
    by_parameters = budget.macs is None and budget.parameters
    return prices(parameter_savings(chain) if by_parameters else savings(chain))


def _clock(chain: ResidualChain, latency_batch: int, seed: int) -> Clock:
    """Return what measures a network against the original, in turns."""
    images = images_to_time(chain, latency_batch, seed)

    def clock(other: ResidualChain) -> Speed:
        whole, cut = measure([chain, other], images)
        ratio = whole.ratio_to(cut)
        return Speed(ratio.median, (ratio.low, ratio.high), len(images), whole.threads, whole.device)

    return clock


@dataclass(frozen=True)
class Chooser:
    """Finds the plan that a budget asks for.

    Attributes:
        chain: The original.
        images: That the order of removals is found on.
        allowance: What the budget says of sizes and speed.
        method: See `resprune.sensitivity.removals`.
        compensated: See there.
        price: What each block's removal is worth, positive; decides between blocks.
        judge: Labelled images that a drop is measured on; needed for one.
        restoration: What is done to a network before its accuracy counts.
        tell: Told of every candidate whose accuracy was measured.
    """

    chain: ResidualChain
    images: Batches
    allowance: Allowance
    method: Method
    compensated: bool
    price: Sequence[float]
    judge: Batches | None
    restoration: Restoration
    tell: Callable[[Candidate], None]

    @property
    def budget(self) -> Budget:
        """What is wished for."""
        return self.allowance.budget

    def choose(self) -> Candidate:
        """Return the plan: as few removals as the sizes ask for, or as many as the accuracy allows.

        Raises:
            BudgetError: where it cannot be had.
        """
        coming = self._removals(self.method)
        if not self.budget.sizes:
            best = self._as_many_as_possible(coming)
        else:
            found = list[Removal]()
            while self.allowance.missed([removal.index for removal in found]):
                removal = next(coming, None)
                if removal is None:
                    raise self._too_slow(found)
                found.append(removal)
            plan = self._plan(found)
            best = self.judged(replace(plan, speed=self.allowance.told_speed(plan.removed)))
        return replace(best, plan=replace(best.plan, beside=self._beside(best.plan)))

    def judged(self, plan: PrunePlan) -> Candidate:
        """Return a plan, and what it costs where that is limited.

        Raises:
            BudgetError: where it costs too much.
        """
        best, limit = self._tried(plan), self.budget.max_drop
        if best.drop is not None and limit is not None and best.drop > limit:
            raise BudgetError(
                f"{plan.rule}: not both; {len(plan.removed)} blocks must go for the first, and cost"
                f" {best.drop:.2f} points",
                where=self.chain.origin.path,
                hint="allow more, ask for less, or heal with --heal EPOCHS",
            )
        return best

    def _removals(self, method: Method) -> Iterator[Removal]:
        seed = self.restoration.seed
        seen = calibration_images(self.images, seed)
        price = self.price if method == self.method else None
        return removals(self.chain, seen, method=method, compensated=self.compensated, price=price, seed=seed)

    def _too_slow(self, found: Sequence[Removal]) -> BudgetError:
        """Return what says how fast the network is without any block."""
        fastest = self.allowance.speed([removal.index for removal in found]).factor
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
            tried = self._tried(self._plan(found[:count]))
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

    def _tried(self, plan: PrunePlan) -> Candidate:
        """Carry a plan out, and measure what it costs where that is limited."""
        if self.judge is None:
            return Candidate(plan)
        cut = remove_blocks(self.chain, plan)
        restored = self.restoration.restore(cut, plan)
        accuracy = self._measured(restored.network)
        candidate = Candidate(plan, round(100 * (self._accuracy - accuracy), 9), restored)
        self.tell(candidate)
        return candidate

    @cached_property
    def _accuracy(self) -> float:
        return self._measured(self.chain)

    def _measured(self, network: ResidualChain) -> float:
        assert self.judge is not None
        found = pass_over(
            self.judge, lambda images, _: trajectory.evaluate(network, images), silent, "judge"
        ).accuracy
        assert found is not None
        return found

    def _plan(self, found: Sequence[Removal]) -> PrunePlan:
        return surgical(found, self.chain.depth, f"{self.method}, {self.budget}")

    def _beside(self, plan: PrunePlan) -> tuple[Alternative, ...]:
        """Return what taking blocks from the end would do, for the same sizes or as many blocks."""
        if self.method == "tail" or plan.is_tail:
            return ()
        coming, found = self._removals("tail"), list[Removal]()
        by_size = bool(self.allowance.sizes) and self.budget.speedup is None

        def gone() -> tuple[int, ...]:
            return tuple(sorted(removal.index for removal in found))

        while self.allowance.missed(gone()) if by_size else len(found) < len(plan.removed):
            found += islice(coming, 1)
        saved = savings(self.chain)
        macs = self.chain.summary.macs - sum(saved[k] for k in gone())
        return (Alternative("tail", gone(), found[-1].divergence, macs),)
