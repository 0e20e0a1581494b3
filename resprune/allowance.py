"""What a budget says of sizes and speed: whether removals are enough, and how close one gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

from resprune.chain import ResidualChain
from resprune.errors import BudgetError
from resprune.records import Budget, PrunePlan, Speed
from resprune.savings import parameter_savings, savings
from resprune.surgery import remove_blocks

Clock = Callable[[ResidualChain], Speed]
"""Measures how many times faster a network is than the original."""


@dataclass(frozen=True)
class _Size:
    """A size that is limited.

    Attributes:
        name: In words.
        limit: Fraction of the total that may be left.
        total: Of the original.
        saved: By the removal of each block.
    """

    name: str
    limit: float
    total: int
    saved: tuple[int, ...]

    def left(self, gone: Collection[int]) -> float:
        """Return the fraction that is left without some blocks."""
        return (self.total - sum(self.saved[k] for k in gone)) / self.total


@dataclass(frozen=True)
class Allowance:
    """A budget's limits on sizes and speed, for one network.

    Attributes:
        chain: The original.
        budget: What is wished for; its accuracy is not looked at.
        clock: Needed for a speedup.
        measured: Speeds so far, by the blocks that are gone: what decided is what is told.
    """

    chain: ResidualChain
    budget: Budget
    clock: Clock | None = None
    measured: dict[frozenset[int], Speed] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> list[_Size]:
        """All sizes that are limited."""
        chain, budget, found = self.chain, self.budget, list[_Size]()
        if budget.macs is not None:
            found.append(_Size("MACs", budget.macs, chain.summary.macs, savings(chain)))
        if budget.parameters is not None:
            total = chain.summary.parameters
            found.append(_Size("parameters", budget.parameters, total, parameter_savings(chain)))
        return found

    def check(self) -> None:
        """Refuse sizes that no removal leads to, before anything is measured.

        Raises:
            BudgetError: says how close one gets.
        """
        for size in self.sizes:
            least = size.left(range(self.chain.depth))
            if least > size.limit:
                raise BudgetError(
                    f"{size.limit:g} of the {size.name} cannot be reached: stem, projections and head are"
                    f" {least:.3g} of them",
                    where=self.chain.origin.path,
                    hint=f"ask for {math.ceil(1e4 * least) / 1e4:g} or more",
                )

    def too_large(self, gone: Collection[int]) -> str | None:
        """Return in words which limit on sizes is not kept without these blocks, or None."""
        for size in self.sizes:
            if size.left(gone) > size.limit:
                return f"{size.left(gone):.3g} of the {size.name} are left, and {size.limit:g} may be"
        return None

    def missed(self, gone: Collection[int]) -> str | None:
        """Return in words which limit is not kept without these blocks, or None; the clock is asked last."""
        if (large := self.too_large(gone)) is not None:
            return large
        wanted = self.budget.speedup
        if wanted is None:
            return None
        factor = self.speed(gone).factor if gone else 1.0
        return None if factor >= wanted else f"it is {factor:.2f} times faster, and {wanted:g} is asked for"

    def speed(self, gone: Collection[int]) -> Speed:
        """Return how much faster the network is without some blocks; every set is measured once."""
        assert self.clock is not None
        key = frozenset(gone)
        if key not in self.measured:
            plan = PrunePlan.without(key, self.chain.depth, "speed")
            self.measured[key] = self.clock(remove_blocks(self.chain, plan))
        return self.measured[key]

    def told_speed(self, gone: Collection[int]) -> Speed | None:
        """Return the same for a plan, or None where no speed is asked for."""
        return self.speed(gone) if self.budget.speedup is not None and gone else None

    def confirmed(self, plan: PrunePlan) -> PrunePlan:
        """Return a plan that keeps to the limits, and says so.

        Raises:
            BudgetError: where it does not.
        """
        missed = self.missed(plan.removed)
        if missed is not None:
            raise BudgetError(
                f"the plan ({plan.rule}) and {self.budget}: not both; {missed}",
                where=self.chain.origin.path,
                hint="ask for less, name other blocks, or leave the choice to the budget",
            )
        return replace(plan, rule=f"{plan.rule}; {self.budget}", speed=self.told_speed(plan.removed))
