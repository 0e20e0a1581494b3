"""The plan that keeps a budget, found by trying: as few removals as must be, or as many as may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from torch import Tensor

from resprune.allowance import Allowance
from resprune.chain import ResidualChain
from resprune.data import Batches
from resprune.errors import BudgetError
from resprune.exchange import Exchange
from resprune.gate import drop_of
from resprune.judging import Judge
from resprune.plurals import counted
from resprune.reading import calibration_images
from resprune.records import Alternative, Budget, Method, PrunePlan, Removal
from resprune.restoration import Restoration, Restored
from resprune.savings import savings
from resprune.selection import surgical
from resprune.sensitivity import divergence_without, removals
from resprune.surgery import remove_blocks


@dataclass(frozen=True)
class Candidate:
    """A plan that was tried.

    Attributes:
        plan: Which blocks go, and what that costs where it was asked for.
        restored: The network that would be written; None where it was not made.
    """

    plan: PrunePlan
    restored: Restored | None = None


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
        judge: Measures a drop, on labelled images; needed for one.
        restoration: What is done to a network before its accuracy counts.
        rivals: How many plans with one block exchanged are healed for a while; 0 for none.
        tell: Told of every candidate whose accuracy was measured, or that was healed for a while.
    """

    chain: ResidualChain
    images: Batches
    allowance: Allowance
    method: Method
    compensated: bool
    price: Sequence[float]
    judge: Judge | None
    restoration: Restoration
    rivals: int
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
        coming = self._removals()
        if not self.budget.sizes:
            best = self._as_many_as_possible(coming)
        else:
            found = list[Removal]()
            while self.allowance.missed([removal.index for removal in found]):
                removal = next(coming, None)
                if removal is None:
                    raise self._too_slow(found)
                found.append(removal)
            plan = self._exchange.improved(self._plan(found))
            best = self.judged(replace(plan, speed=self.allowance.told_speed(plan.removed)))
        return replace(best, plan=replace(best.plan, beside=self._beside(best.plan)))

    def judged(self, plan: PrunePlan) -> Candidate:
        """Return a plan, and what it costs where that is limited.

        Raises:
            BudgetError: where it costs too much.
        """
        best, limit = self._tried(plan), self.budget.max_drop
        drop = best.plan.drop
        if drop is not None and limit is not None and drop.points > limit:
            raise BudgetError(
                f"{plan.rule}: not both; {counted(len(plan.removed), 'block')} must go for the first, and cost"
                f" {drop.points:.2f} points",
                where=self.chain.origin.path,
                hint="allow more, ask for less, or heal with --heal EPOCHS",
            )
        return best

    @property
    def _exchange(self) -> Exchange:
        return Exchange(
            allowance=self.allowance,
            images=self._seen,
            compensated=self.compensated,
            restoration=self.restoration,
            count=self.rivals,
            tell=lambda plan: self.tell(Candidate(plan)),
        )

    @cached_property
    def _seen(self) -> list[Tensor]:
        """Return the images that removals are tried on."""
        return calibration_images(self.images, self.restoration.seed)

    def _removals(self) -> Iterator[Removal]:
        return removals(
            self.chain,
            self._seen,
            method=self.method,
            compensated=self.compensated,
            price=self.price,
            seed=self.restoration.seed,
        )

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
            drop = tried.plan.drop
            assert drop is not None
            first = drop if count == 1 else first
            if drop.points <= limit:
                best, low = tried, count
            else:
                high = count
            count = min(2 * count, self.chain.depth) if high > self.chain.depth else (low + high) // 2
        if not low:
            lost = "no block can go"
            if first is not None:
                lost = f"block {found[0].index}, the first that would go, costs {first.points:.2f} points"
            raise BudgetError(
                f"{self.budget}: {lost}",
                where=self.chain.origin.path,
                hint="allow more, heal with --heal EPOCHS, or name others with --remove",
            )
        return best

    def _tried(self, plan: PrunePlan) -> Candidate:
        """Carry a plan out, and measure what it costs where that is limited."""
        if self.judge is None:
            return Candidate(plan)
        cut = remove_blocks(self.chain, plan)
        restored = self.restoration.restore(cut, plan)
        drop = drop_of(self.judge.outcomes(restored.network))
        candidate = Candidate(replace(plan, drop=drop), restored)
        self.tell(candidate)
        return candidate

    def _plan(self, found: Sequence[Removal]) -> PrunePlan:
        rule = f"{self.method}, {self.budget}"
        if self.budget.sizes:
            return surgical(found, self.chain.depth, rule)
        return surgical(found, self.chain.depth, rule, "one block more, in the order of trials, costs too much")

    def _beside(self, plan: PrunePlan) -> tuple[Alternative, ...]:
        """Return what taking blocks from the end would do, for the same sizes or as many blocks."""
        if self.method == "tail" or plan.is_tail:
            return ()
        depth, count = self.chain.depth, len(plan.removed)
        if self.allowance.sizes and self.budget.speedup is None:
            count = next(n for n in range(depth + 1) if not self.allowance.missed(range(depth - n, depth)))
        gone = tuple(range(depth - count, depth))
        divergence = divergence_without(
            self.chain, self._seen, gone, compensated=self.compensated, seed=self.restoration.seed
        )
        saved = savings(self.chain)
        macs = self.chain.summary.macs - sum(saved[k] for k in gone)
        return (Alternative("tail", gone, divergence, macs),)
