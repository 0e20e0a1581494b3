"""Whether a plan heals better with one of its blocks exchanged, found by healing a few networks for a while.

What a removal costs after closed-form fits does not tell what a training can do without: among sets of blocks
that fits make up for alike, some heal to much less divergence than others, and the first steps show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from torch import Tensor

from resprune.allowance import Allowance
from resprune.chain import ResidualChain
from resprune.compensated_search import search_for
from resprune.records import PrunePlan, Rival
from resprune.restoration import Restoration
from resprune.sensitivity import divergence_without
from resprune.surgery import remove_blocks

RIVALS = 3
"""How many plans are healed for a while by default, besides the one that the search found."""
SHARE = 10
"""That takes one step in so many of the healing's."""
FEWEST_STEPS = 50
"""But no fewer, which would not tell plans apart: a healing shorter than `SHARE` times that has no rivals."""
MARGIN = 1.1
"""Of plans that diverge by at most this times the least, the one goes that looked best in trials."""


@dataclass(frozen=True)
class Exchange:
    """Finds rivals of a plan, and which of them heals best.

    Attributes:
        allowance: What the budget says of sizes and speed, which rivals keep to.
        images: That removals are tried on.
        compensated: See `resprune.sensitivity.removals`.
        restoration: What a network is brought back with, and a healing of full length.
        count: How many rivals are healed for a while, besides the plan that the search found.
        tell: Told of every plan that was healed for a while, in its ``rivals``.
    """

    allowance: Allowance
    images: Sequence[Tensor]
    compensated: bool
    restoration: Restoration
    count: int
    tell: Callable[[PrunePlan], None]

    @property
    def chain(self) -> ResidualChain:
        """The original."""
        return self.restoration.chain

    def improved(self, plan: PrunePlan) -> PrunePlan:
        """Return the plan, or a rival that heals better, with what was tried in its ``rivals``.

        The plan is returned as it is where no rivals are wished for, it loses nothing, the healing is too short
        or holds out no images to judge on, or no other block may go.

        Args:
            plan: That keeps to the allowance.
        """
        if not self.count or not plan.divergence or self._short is None:
            return plan
        rivals = list(islice(self._allowed(plan), self.count))
        if not rivals:
            return plan
        own = self._healed(plan)
        tried = [self._healed(_exchanged(plan, *pair)) for pair in rivals]
        told = (own, *tried)
        least = min(rival.divergence for rival in told)
        first = next(turn for turn, rival in enumerate(told) if rival.divergence <= MARGIN * least)
        if first:
            plan = self._explained(plan, rivals[first - 1], own, told[first])
        return replace(plan, rivals=told)

    @cached_property
    def _short(self) -> Restoration | None:
        """What a rival is brought back with; None where that would tell nothing."""
        healer = self.restoration.healer
        if healer is None or healer.images.held_out is None:
            return None
        steps = healer.steps // SHARE
        if steps < FEWEST_STEPS:
            return None
        shorter = replace(healer, recipe=replace(healer.recipe, steps=steps), on_epoch=lambda row: None)
        return replace(self.restoration, healer=shorter, rounds=1)

    def _allowed(self, plan: PrunePlan) -> Iterator[tuple[int, int]]:
        """Yield the exchanges that keep to the allowance: the block that goes and the one that stays for it."""
        for goes, stays in self._ranked(plan):
            if not self.allowance.missed({*plan.removed, goes} - {stays}):
                yield goes, stays

    def _ranked(self, plan: PrunePlan) -> list[tuple[int, int]]:
        """Return exchanges, those first that look best in trials.

        All blocks are tried in the place of the one that went last; in the place of the others those that
        looked best there, as many as a step of the search tries.
        """
        search = search_for(self.chain, self.images, compensated=self.compensated, seed=self.restoration.seed)
        looks, found = dict[int, float](), dict[tuple[int, int], float]()
        for stays in reversed(plan.order or plan.removed):
            others = set(plan.removed) - {stays}
            small = [k for k in plan.kept if not self.allowance.too_large({*others, k})]
            if not small:
                continue
            if looks:
                ranked = sorted(small, key=lambda k: (looks.get(k, math.inf), k))
                small = search.affordable(others, ranked, search.effort)
            _, decides = search.compare(others, small, search.rough_every)
            looks = looks or decides
            found |= {(goes, stays): value for goes, value in decides.items()}
        return sorted(found, key=lambda pair: (found[pair], pair))

    def _healed(self, plan: PrunePlan) -> Rival:
        """Return how far from the original a plan's network is after a short healing."""
        assert self._short is not None
        assert self._short.healer is not None
        restored = self._short.restore(remove_blocks(self.chain, plan), plan)
        divergence = 0.0  # where there is nothing to bring back
        if restored.steps:
            _, last = restored.steps[-1]
            divergence = last.after if last.kept else last.before
            divergence = math.inf if math.isnan(divergence) else divergence  # of logits that are not finite
        rival = Rival(plan.removed, self._short.healer.steps, divergence)
        self.tell(replace(plan, rivals=(rival,)))
        return rival

    def _explained(self, plan: PrunePlan, pair: tuple[int, int], own: Rival, rival: Rival) -> PrunePlan:
        """Return the plan with an exchange, and why."""
        goes, stays = pair
        after = f"after {rival.steps} steps of healing"
        reasons = list(plan.reasons)
        reasons[goes] = (
            f"removed in the place of block {stays}: {after} the output diverged by {rival.divergence:.3g} nats"
            f", and by {own.divergence:.3g} where block {stays} goes"
        )
        reasons[stays] = f"kept: without block {goes} in its place the network heals better"
        divergence = divergence_without(
            self.chain,
            self.images,
            rival.removed,
            compensated=self.compensated,
            seed=self.restoration.seed,
        )
        return replace(_exchanged(plan, goes, stays), reasons=tuple(reasons), divergence=divergence)


def _exchanged(plan: PrunePlan, goes: int, stays: int) -> PrunePlan:
    """Return a plan with one block in the place of another."""
    removed = {*plan.removed, goes} - {stays}
    order = tuple(goes if k == stays else k for k in plan.order)
    new = PrunePlan.without(removed, len(plan.removed) + len(plan.kept), plan.rule)
    return replace(plan, removed=new.removed, kept=new.kept, order=order)
