"""Which blocks to take from anywhere of a chain so that its output changes least; no labels are needed.

The change is the divergence ``D(S) = mean over images of KL(p || q_S)`` in nats, p the class probabilities of
the whole network and q_S those without the blocks S. Greedy backward elimination tries every block in every
step. Here only the few that look best are tried. How they look comes from one of two (`benchmarks/selection.py`
compares them):

- trials: what removing the block added when it was last tried, all of them having been tried on some images;
- gates: a gate on every branch, ``x_{k+1} = a_k(S_k(x_k) + g_k F_k(x_k))``, and to second order in closing it

      D(S + k) - D(S) ~ -dD/dg_k + 1/2 E[J_k^T (diag(q) - q q^T) J_k],    J_k = dlogits/dg_k,

  with the Gauss-Newton (Fisher) part of the curvature; the first term is zero for the whole network. A
  backward pass with ``q - p`` gives the first term for all gates, one with a random u of covariance
  ``diag(q) - q q^T`` the second, ``1/2 E[(u^T J_k)^2]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Literal, get_args

from torch import Tensor

from resprune.chain import ResidualChain
from resprune.compensated_search import search_for
from resprune.errors import DataError, UsageError
from resprune.records import Method, Removal
from resprune.savings import savings
from resprune.search import OnPass, Search, ignore

Until = Callable[[tuple[Removal, ...]], bool]
"""Given the removals so far: whether they are enough."""


def order_removals(
    chain: ResidualChain,
    images: Sequence[Tensor],
    *,
    count: int | None = None,
    until: Until | None = None,
    **options: Any,
) -> tuple[Removal, ...]:
    """Return the blocks to remove, in turn; see `removals`.

    Args:
        chain: In eval mode; left as it is.
        images: Batches (n, c, h, w), preprocessed.
        count: Stop after so many removals.
        until: Stop as soon as it says so; asked before every removal. Without both all blocks are ordered.
        options: Of `removals`.

    Raises:
        UsageError, DataError, ArchitectureError: as `removals` does.
    """
    if count is not None and not 0 <= count <= chain.depth:
        raise UsageError(f"cannot remove {count} blocks, the network has {chain.depth}")
    found: list[Removal] = []
    coming = islice(removals(chain, images, **options), count)
    while until is None or not until(tuple(found)):
        removal = next(coming, None)
        if removal is None:
            break
        found.append(removal)
    return tuple(found)


def removals(
    chain: ResidualChain,
    images: Sequence[Tensor],
    *,
    method: Method = "surgical",
    compensated: bool = False,
    price: Sequence[float] | None = None,
    effort: float | None = None,
    rank: Literal["trials", "gates"] = "trials",
    seed: int = 0,
    on_pass: OnPass = ignore,
) -> Iterator[Removal]:
    """Yield the blocks to remove, in turn and when asked: each adds least divergence to those before it.

    Branches that change nothing on any image go first. Then every step tries the blocks that are ranked first
    on real outputs, block k at the cost of the network behind it, and the best of them goes.

    Args:
        chain: In eval mode; left as it is.
        images: Batches (n, c, h, w), preprocessed.
        method: Which blocks may go next: ``surgical`` all, ``stagewise`` the last that is left of every stage,
            ``tail`` the last of the network.
        compensated: Judge a removal after the part before it, and all behind it, were fitted to make up for it;
            see `resprune.compensation`. Better where the pruned network is compensated too.
        price: What each block's removal is worth, positive, any unit: the divergence that a removal adds is
            then compared per unit. By default the divergence alone decides.
        effort: What every step may spend on trying blocks, in forward passes, besides what steps before it left
            over; one is tried in any case. By default `Search.effort`; infinite for all blocks, which is greedy
            backward elimination.
        rank: What they are ranked by, see above; ``gates`` choose less well.
        seed: Of the random vectors for gates, and of the pixels that fits look at.
        on_pass: Told what was computed.

    Raises:
        UsageError: where a wish is out of range, or the prices do not fit.
        DataError: where there are no images.
        ArchitectureError: where the network's logits are not finite.
    """
    if method not in get_args(Method):
        raise UsageError(f"no method {method!r}", hint=f"choose from {', '.join(get_args(Method))}")
    if effort is not None and not effort > 0:
        raise UsageError(f"the effort must be a number of passes > 0, got {effort}")
    if price is not None and (len(price) != chain.depth or not all(0 < p < math.inf for p in price)):
        raise UsageError(f"the prices must be {chain.depth} positive numbers, one for each block, got {price}")
    if not sum(map(len, images)):
        raise DataError("no images to choose blocks on")
    search = search_for(chain, images, compensated=compensated, seed=seed, on_pass=on_pass)
    going = _Elimination(
        search,
        worth=[float(p) for p in (savings(chain) if price is None else price)],
        priced=price is not None,
        rank=rank,
        effort=search.effort if effort is None else effort,
    )
    while left := _may_go(chain, going.removed, method):
        yield going.remove_one_of(left)


def divergence_without(
    chain: ResidualChain,
    images: Sequence[Tensor],
    blocks: Collection[int],
    *,
    compensated: bool = False,
    seed: int = 0,
) -> float:
    """Return how far the output is from the original's without these blocks, in nats, as a trial tells it.

    Args:
        chain: In eval mode; left as it is.
        images: Batches (n, c, h, w), preprocessed.
        blocks: At least one.
        compensated: See `removals`.
        seed: Of the pixels that fits look at.
    """
    search = search_for(chain, images, compensated=compensated, seed=seed)
    first, *others = sorted(blocks)
    return search.within_memory(lambda: search.try_each(others, [first]))[first].divergence


@dataclass
class _Elimination:
    """Blocks that go one after another, and what is known of those that stay.

    Attributes:
        search: Computes.
        worth: What each block's removal is worth.
        priced: Whether that counts.
        rank, effort: As `removals` takes them.
        removed: So far.
        guess: What removing a block adds to what decides, as far as is known.
        decided, divergence: Of all that were removed: what decides, and the divergence.
        unspent: Of the effort of all steps so far, in passes.
    """

    search: Search
    worth: Sequence[float]
    priced: bool
    rank: Literal["trials", "gates"]
    effort: float
    removed: frozenset[int] = frozenset()
    guess: dict[int, float] = field(default_factory=dict)
    decided: float = 0.0
    divergence: float = 0.0
    unspent: float = 0.0

    def remove_one_of(self, left: Sequence[int]) -> Removal:
        """Remove the best of the blocks that may go."""
        inert = self.search.within_memory(lambda: self.search.inert)
        free = inert.intersection(left) if self.removed <= inert else ()  # others may see other states now
        if free:
            best = min(free, key=lambda k: (-self.worth[k], k))
        else:
            candidates = self._candidates(left)
            divergence, decides = self._tried(candidates)
            best = min(candidates, key=self._score)
            self.search.settle(best, self.removed)
            self.decided, self.divergence = decides[best], divergence[best]
        self.removed |= {best}
        return Removal(best, self.divergence, self.worth[best])

    def _candidates(self, left: Sequence[int]) -> Sequence[int]:
        """Return the blocks to try: those that are ranked first, as many as the effort is enough for."""
        search, removed = self.search, self.removed
        if search.trial_cost(removed, left) <= self.effort:
            return left
        if self.rank == "gates":
            fresh = search.within_memory(partial(search.estimate, removed, left))
            self.guess |= {k: (fresh[k] + self.guess.get(k, fresh[k])) / 2 for k in left}
        elif unknown := sorted(set(left) - self.guess.keys()):
            self._tried(unknown, search.rough_every)
        self.unspent += self.effort
        candidates = search.affordable(removed, sorted(left, key=self._score), self.unspent)
        self.unspent -= search.trial_cost(removed, candidates)
        return candidates

    def _tried(self, blocks: Sequence[int], every: int = 1) -> tuple[dict[int, float], dict[int, float]]:
        """Return the divergence with each block removed too, and what decides."""
        trials, decides = self.search.compare(self.removed, blocks, every)
        self.guess.update({k: value - self.decided for k, value in decides.items()})
        return {k: trial.divergence for k, trial in trials.items()}, decides

    def _score(self, k: int) -> tuple[float, int]:
        return (_per_unit(self.guess[k], self.worth[k]) if self.priced else self.guess[k]), k


def _may_go(chain: ResidualChain, removed: Collection[int], method: Method) -> list[int]:
    """Return the blocks of which one may go next, ascending."""
    left = [block for block in chain.blocks if block.index not in removed]
    if method == "surgical":
        return [block.index for block in left]
    last = {block.stage if method == "stagewise" else 0: block.index for block in left}
    return sorted(last.values())


def _per_unit(added: float, price: float) -> float:
    """Return a rising function of what is added and, for either sign of it, a falling one of the price."""
    return added / price if added > 0 else added * price
