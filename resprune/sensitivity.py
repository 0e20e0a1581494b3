"""Which blocks to take from anywhere of a chain so that its output changes least; no labels are needed.

The change is the divergence ``D(S) = mean over images of KL(p || q_S)`` in nats, p the class probabilities of
the whole network and q_S those without the blocks S. Greedy backward elimination tries every block in every
step. Here only the few that look best are tried. How they look comes from one of two (`benchmarks/selection.py`
compares them):

- trials: what removing the block added when it was last tried, all of them having been tried once;
- gates: a gate on every branch, ``x_{k+1} = a_k(S_k(x_k) + g_k F_k(x_k))``, and to second order in closing it

      D(S + k) - D(S) ~ -dD/dg_k + 1/2 E[J_k^T (diag(q) - q q^T) J_k],    J_k = dlogits/dg_k,

  with the Gauss-Newton (Fisher) part of the curvature; the first term is zero for the whole network. A
  backward pass with ``q - p`` gives the first term for all gates, one with a random u of covariance
  ``diag(q) - q q^T`` the second, ``1/2 E[(u^T J_k)^2]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from resprune.chain import Block, ResidualChain
from resprune.errors import ArchitectureError, DataError, UsageError
from resprune.records import PrunePlan, Removal
from resprune.surgery import remove_blocks

EFFORT = 3.0
"""What a step spends on trying blocks, by default, in forward passes: 9 of 27 like blocks then cost at most
1 + 14.5 + 8 * 3 = 39.5 passes when ranked by trials."""
ESTIMATED = 4
"""After the first step gates look at every so manieth image, at others in every step."""
BACKWARD = 2.0
"""What a backward pass costs, in forward passes."""

OnPass = Callable[[float], None]
"""Called with what was computed, in forward passes of the whole network over all images."""
Until = Callable[[tuple[Removal, ...]], bool]
"""Given the removals so far: whether they are enough."""


def gated(block: Block, x: Tensor, gate: Tensor | float) -> Tensor:
    """Return ``a(S(x) + gate F(x))``: the block at 1, its skip step at 0.

    Args:
        block: Any block.
        x: (n, c, h, w).
        gate: A number, or (n, 1, 1, 1) for one on every image.
    """
    for step in block.lead:
        x = step(x)
    return block.part.activation(block.part.skip(x) + gate * block.branch(x))


def savings(chain: ResidualChain) -> tuple[int, ...]:
    """Return the multiply-accumulates for one image that each block's removal saves; projections stay."""
    kept = {block.index: 0 for block in chain.blocks}
    for block in chain.blocks:
        if not block.part.step_is_trivial:
            others = tuple(k for k in range(chain.depth) if k != block.index)
            without = remove_blocks(chain.outline, PrunePlan("saving", (block.index,), others))
            kept[block.index] = chain.costs[block.index][0] - (chain.summary.macs - without.summary.macs)
    return tuple(chain.costs[k][0] - macs for k, macs in kept.items())


def order_removals(
    chain: ResidualChain,
    images: Sequence[Tensor],
    *,
    count: int | None = None,
    until: Until | None = None,
    price: Sequence[float] | None = None,
    effort: float | None = EFFORT,
    rank: Literal["trials", "gates"] = "trials",
    seed: int = 0,
    on_pass: OnPass | None = None,
) -> tuple[Removal, ...]:
    """Return the blocks to remove, in turn: each adds least divergence to those before it.

    Branches that change nothing on any image go first. Then every step tries the blocks that are ranked
    first on real outputs, block k at the cost of the network behind it, and the best of them goes.

    Args:
        chain: In eval mode; left as it is.
        images: Batches (n, c, h, w), preprocessed.
        count: Stop after so many removals.
        until: Stop as soon as it says so; asked before every removal. Without both all blocks are ordered.
        price: What each block's removal is worth, positive, any unit: the divergence that a removal adds is
            then compared per unit. By default the divergence alone decides.
        effort: What every step may spend on trying blocks, in forward passes; one is tried in any case. None
            for all blocks, which is greedy backward elimination.
        rank: What they are ranked by, see above: ``trials`` try all blocks in the first step, ``gates`` cost
            less where the network is deep or few blocks go, and choose less well.
        seed: Of the random vectors for gates; trials need none.
        on_pass: Told what was computed.

    Raises:
        UsageError: where a wish is out of range, or the prices do not fit.
        DataError: where there are no images.
        ArchitectureError: where the network's logits are not finite.
    """
    if count is not None and not 0 <= count <= chain.depth:
        raise UsageError(f"cannot remove {count} blocks, the network has {chain.depth}")
    if effort is not None and not effort > 0:
        raise UsageError(f"the effort must be a number of passes > 0, got {effort}")
    if price is not None and (len(price) != chain.depth or not all(0 < p < math.inf for p in price)):
        raise UsageError(f"the prices must be {chain.depth} positive numbers, one for each block, got {price}")
    if not sum(map(len, images)):
        raise DataError("no images to choose blocks on")
    worth = [float(p) for p in (savings(chain) if price is None else price)]
    search = _Search(chain, images, seed, on_pass or (lambda passes: None))
    removals: list[Removal] = []
    guess: dict[int, float] = {}  # what removing block k adds to the divergence, as far as is known

    def score(k: int) -> tuple[float, int]:
        return (_per_unit(guess[k], worth[k]) if price is not None else guess[k]), k

    def enough() -> bool:
        return len(removals) == count or (until is not None and until(tuple(removals)))

    for k in sorted(search.inert, key=lambda k: (-worth[k], k)):
        if enough():
            return tuple(removals)
        removals.append(Removal(k, 0.0, worth[k]))
    while len(removals) < chain.depth and not enough():
        removed = frozenset(removal.index for removal in removals)
        left = [k for k in range(chain.depth) if k not in removed]
        if effort is not None and search.trial_cost(removed, left) > effort:
            if rank == "gates":
                fresh = search.estimate(removed, left)
                guess = {k: (fresh[k] + guess.get(k, fresh[k])) / 2 for k in left}
            if guess:
                left = search.affordable(removed, sorted(left, key=score), effort)
        now = removals[-1].divergence if removals else 0.0
        truth = search.try_each(removed, left)
        guess |= {k: divergence - now for k, divergence in truth.items()}
        best = min(left, key=score)
        removals.append(Removal(best, truth[best], worth[best]))
    return tuple(removals)


def _per_unit(added: float, price: float) -> float:
    """Return a rising function of what is added and, for either sign of it, a falling one of the price."""
    return added / price if added > 0 else added * price


@dataclass
class _Search:
    """The chain with some blocks removed, over the calibration images, against the whole chain."""

    chain: ResidualChain
    images: Sequence[Tensor]
    seed: int
    on_pass: OnPass
    estimates: int = 0

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def _samples(self) -> int:
        return sum(map(len, self.images))

    def _inputs(self, batch: Tensor) -> Tensor:
        return batch.to(self.chain.device, memory_format=torch.channels_last)

    @cached_property
    def _original(self) -> tuple[list[Tensor], frozenset[int]]:
        """Logits (n, classes) of every batch, and the blocks that change nothing."""
        inert, logits = set(range(self.chain.depth)), []
        with torch.inference_mode():
            for batch in self.images:
                x = self.chain.stem(self._inputs(batch))
                for block in self.chain.blocks:
                    after = block(x)
                    if block.index in inert and not torch.equal(block.skip(x), after):
                        inert.discard(block.index)
                    x = after
                logits.append(self.chain.resume(self.chain.depth, x))
                if not bool(torch.isfinite(logits[-1]).all()):
                    raise ArchitectureError(
                        "the logits are not finite",
                        where=self.chain.origin.path,
                        hint="check the preprocessing, and that the weights are undamaged",
                    )
        self.on_pass(1.0)
        return logits, frozenset(inert)

    @property
    def inert(self) -> frozenset[int]:
        """Blocks whose output is that of their skip step on every image, bit by bit."""
        return self._original[1]

    @cached_property
    def _shares(self) -> tuple[list[float], list[float]]:
        """Every block's share of the network's multiply-accumulates, whole and removed."""
        total = self.chain.summary.macs
        whole = [macs for macs, _ in self.chain.costs]
        bare = [macs - saved for macs, saved in zip(whole, savings(self.chain), strict=True)]
        return [macs / total for macs in whole], [macs / total for macs in bare]

    def _cost(self, blocks: Iterable[int], removed: Collection[int]) -> float:
        whole, bare = self._shares
        return sum(bare[k] if k in removed else whole[k] for k in blocks)

    def estimate(self, removed: Collection[int], left: Sequence[int]) -> dict[int, float]:
        """Estimate what closing each gate adds to the divergence; costs one forward and two backward passes."""
        every = ESTIMATED if self.estimates and self._samples >= ESTIMATED else 1
        seen = 0
        with torch.inference_mode(mode=False):
            sums = torch.zeros(len(left), dtype=torch.float64)
            for images, original in self._share_of_images(every):
                seen += len(images)
                sums += self._added(images, original, removed, left)
        self.estimates += 1
        whole_way = 1 - self._cost(range(self.chain.depth), ()) + self._cost(range(self.chain.depth), removed)
        self.on_pass((1 + 2 * BACKWARD) * whole_way * seen / self._samples)
        added = [value if math.isfinite(value) else math.inf for value in (sums / seen).tolist()]
        return dict(zip(left, added, strict=True))

    def _share_of_images(self, every: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every so manieth image with its original logits, others in the next step."""
        first = self.estimates % every
        for batch, original in zip(self.images, self._original[0], strict=True):
            if len(batch) > first:
                yield batch[first::every], original[first::every]
            first = (first - len(batch)) % every

    def _added(self, images: Tensor, original: Tensor, removed: Collection[int], left: Sequence[int]) -> Tensor:
        """Return the sum over images of the estimate, for the gates of the blocks that are left (blocks,)."""
        with torch.no_grad():
            x = self.chain.stem(self._inputs(images))
        gates = {k: torch.ones(len(x), 1, 1, 1, device=x.device, requires_grad=True) for k in left}
        with torch.enable_grad():
            for block in self.chain.blocks:
                x = block.skip(x) if block.index in removed else gated(block, x, gates[block.index])
            logits = self.chain.resume(self.chain.depth, x)
        q, p = logits.detach().softmax(1), original.softmax(1)
        signs = torch.randint(0, 2, q.shape, generator=self._generator).to(q) * 2 - 1
        spread = q.sqrt() * signs
        u = spread - q * spread.sum(1, keepdim=True)
        pulled = (q - p, u)
        slopes = [
            torch.autograd.grad(logits, list(gates.values()), way, retain_graph=way is not u) for way in pulled
        ]
        slope, curve = (torch.stack([grad.flatten() for grad in grads]).double() for grads in slopes)
        return (0.5 * curve.square() - slope).sum(1).cpu()

    def trial_cost(self, removed: Collection[int], candidates: Collection[int]) -> float:
        """Return what `try_each` costs, in passes: the way to the last candidate, and the rest behind each."""
        depth = self.chain.depth
        way = 1 - self._cost(range(depth), ()) + self._cost(range(max(candidates)), removed)
        return way + sum(self._cost([k], [k]) + self._cost(range(k + 1, depth), removed) for k in candidates)

    def affordable(self, removed: Collection[int], ranked: Sequence[int], effort: float) -> list[int]:
        """Return the first of the ranked blocks, as many as the effort is enough for and at least one."""
        chosen = list(ranked[:1])
        for k in ranked[1:]:
            if self.trial_cost(removed, [*chosen, k]) > effort:
                break
            chosen.append(k)
        return chosen

    @torch.inference_mode()
    def try_each(self, removed: Collection[int], candidates: Collection[int]) -> dict[int, float]:
        """Return the divergence with each candidate removed too; all share the way to its block."""
        sums = dict.fromkeys(sorted(candidates), 0.0)
        behind = {k: range(k + 1, self.chain.depth) for k in sums}
        for batch, original in zip(self.images, self._original[0], strict=True):
            x = self.chain.stem(self._inputs(batch))
            for block in self.chain.blocks[: max(sums) + 1]:
                if block.index in sums:
                    logits = self._finish(block.skip(x), behind[block.index], removed)
                    sums[block.index] += _divergence(original, logits)
                if block.index < max(sums):
                    x = block.skip(x) if block.index in removed else block(x)
        self.on_pass(self.trial_cost(removed, candidates))
        return {k: total / self._samples for k, total in sums.items()}

    def _finish(self, x: Tensor, blocks: Iterable[int], removed: Collection[int]) -> Tensor:
        for k in blocks:
            x = self.chain.blocks[k].skip(x) if k in removed else self.chain.blocks[k](x)
        return self.chain.resume(self.chain.depth, x)


def _divergence(original: Tensor, logits: Tensor) -> float:
    """Return the sum over images of KL(original || logits), infinite where one is not finite."""
    p, q = original.double().log_softmax(1), logits.double().log_softmax(1)
    total = float(F.kl_div(q, p, reduction="sum", log_target=True))
    return max(total, 0.0) if math.isfinite(total) else math.inf
