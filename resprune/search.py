"""What a search for blocks to remove computes: original outputs, trials of removals, estimates from gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from resprune.chain import Block, ResidualChain
from resprune.divergence import kl, total_variation
from resprune.errors import ArchitectureError
from resprune.memory import halving
from resprune.savings import savings

SHARE = 4
"""Where a rough figure is enough, one image in so many is looked at."""
FEWEST = 32
"""But no fewer than these."""
BACKWARD = 2.0
"""What a backward pass costs, in forward passes."""

TEMPERATURE = 4.0
"""What logits are divided by where few images are to tell removals apart: at 1 the few count on which a network
is sure and wrong, which are too few to rank sets of blocks by."""

T = TypeVar("T")
OnPass = Callable[[float], None]
"""Called with what was computed, in forward passes of the whole network over all images."""


def ignore(passes: float) -> None:
    """Be told of a pass where nobody counts them."""


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


@dataclass
class Trial:
    """How far outputs are from the original's, on the images seen so far.

    Attributes:
        images: Number of them.
        nats: Sum over them of the divergence, infinite where an output is not finite.
        soft: The same at `TEMPERATURE`.
        moved: Sum over them of the total variation distance, 1 where an output is not finite.
    """

    images: int = 0
    nats: float = 0.0
    soft: float = 0.0
    moved: float = 0.0

    def see(self, original: Tensor, logits: Tensor) -> None:
        """Add logits (n, classes) beside the original's."""
        self.images += len(logits)
        self.nats += _lost_in(original, logits)
        self.soft += _lost_in(original / TEMPERATURE, logits / TEMPERATURE)
        moved = total_variation(original, logits)
        self.moved += moved if math.isfinite(moved) else len(logits)

    @property
    def divergence(self) -> float:
        """``KL(original || logits)``, mean over images, in nats."""
        return self.nats / self.images

    @property
    def softened(self) -> float:
        """The same of probabilities at `TEMPERATURE`."""
        return self.soft / self.images

    @property
    def variation(self) -> float:
        """Total variation distance of the probabilities, mean over images, 0 to 1."""
        return self.moved / self.images


@dataclass
class Search:
    """The chain with some blocks removed, over the calibration images, against the whole chain."""

    chain: ResidualChain
    images: Sequence[Tensor]
    seed: int
    on_pass: OnPass
    estimates: int = 0
    effort: ClassVar[float] = 3.9
    """What a step may spend on trials, by default, in forward passes: 9 of 27 like blocks then cost at most
    1 + 15/4 + 9 * 3.9 = 39.9 passes."""

    @cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @cached_property
    def _samples(self) -> int:
        return sum(map(len, self.images))

    def within_memory(self, compute: Callable[[], T]) -> T:
        """Return what is computed on all batches; where memory lacks, it is done again on smaller ones.

        Sums over images stay what they are; fits then look at other pixels.
        """
        largest = max(map(len, self.images))

        def attempt(size: int) -> T:
            if size < largest:
                self.images = [piece for batch in self.images for piece in batch.split(size)]
                for known in ("_original", "_targets"):  # batch by batch
                    self.__dict__.pop(known, None)
            return compute()

        return halving(attempt, largest, "choose blocks")

    def one_in(self, most: int, fewest: int = FEWEST) -> int:
        """Return which share of the images to look at, at least the fewest: one in so many, a power of two.

        So images at the first place of one share are at the last place of no other.
        """
        return 1 << max(0, min(most, self._samples // fewest).bit_length() - 1)

    @property
    def rough_every(self) -> int:
        """One image in so many gives a rough figure."""
        return self.one_in(SHARE)

    def _some(self, every: int, first: int = 0) -> Iterator[tuple[int, slice]]:
        """Yield batches that have some of one image in `every`: their number, and where those images are."""
        for index, batch in enumerate(self.images):
            if len(batch) > first:
                yield index, slice(first, None, every)
            first = (first - len(batch)) % every

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
        every = self.rough_every if self.estimates else 1
        seen = 0
        with torch.inference_mode(mode=False):
            sums = torch.zeros(len(left), dtype=torch.float64)
            for index, some in self._some(every, self.estimates % every):  # others in every step
                images = self.images[index][some]
                seen += len(images)
                sums += self._added(images, self._original[0][index][some], removed, left)
        self.estimates += 1
        whole_way = 1 - self._cost(range(self.chain.depth), ()) + self._cost(range(self.chain.depth), removed)
        self.on_pass((1 + 2 * BACKWARD) * whole_way * seen / self._samples)
        added = [value if math.isfinite(value) else math.inf for value in (sums / seen).tolist()]
        return dict(zip(left, added, strict=True))

    def _added(self, images: Tensor, original: Tensor, removed: Collection[int], left: Sequence[int]) -> Tensor:
        """Return the sum over images of the estimate, for the gates of the blocks that are left (blocks,)."""
        with torch.no_grad():
            x = self.chain.stem(self._inputs(images))
        gates = {k: torch.ones(len(x), 1, 1, 1, device=x.device, requires_grad=True) for k in left}
        with torch.enable_grad():
            for block in self.chain.blocks:
                x = block.skip(x) if block.index in removed else gated(block, x, gates.get(block.index, 1.0))
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
        """Return what `try_each` and `weigh` cost, in passes."""
        return self._plain_cost(removed, candidates)

    def _plain_cost(self, removed: Collection[int], candidates: Collection[int]) -> float:
        """Return what trials cost: the way to the last candidate, and the rest behind each."""
        behind = (
            self._cost([k], [k]) + self._cost(range(k + 1, self.chain.depth), removed) for k in candidates
        )
        return self._way(removed, candidates) + sum(behind)

    def _way(self, removed: Collection[int], candidates: Collection[int]) -> float:
        """Return what the network costs up to the last candidate, and its head."""
        return 1 - self._cost(range(self.chain.depth), ()) + self._cost(range(max(candidates)), removed)

    def affordable(self, removed: Collection[int], ranked: Sequence[int], effort: float) -> list[int]:
        """Return the first of the ranked blocks, as many as the effort is enough for and at least one."""
        chosen = list(ranked[:1])
        for k in ranked[1:]:
            if self.trial_cost(removed, [*chosen, k]) > effort:
                break
            chosen.append(k)
        return chosen

    @torch.inference_mode()
    def try_each(
        self, removed: Collection[int], candidates: Collection[int], every: int = 1
    ) -> dict[int, Trial]:
        """Return what the output is with each candidate removed too; all share the way to its block.

        Args:
            removed: What went before.
            candidates: To be tried.
            every: Look at one image in so many.
        """
        trials = {k: Trial() for k in sorted(candidates)}
        behind = {k: range(k + 1, self.chain.depth) for k in trials}
        seen = 0
        for index, some in self._some(every, every - 1):
            images, original = self.images[index][some], self._original[0][index][some]
            seen += len(images)
            x = self.chain.stem(self._inputs(images))
            for block in self.chain.blocks[: max(trials) + 1]:
                if block.index in trials:
                    logits = self._finish(block.skip(x), behind[block.index], removed)
                    trials[block.index].see(original, logits)
                if block.index < max(trials):
                    x = block.skip(x) if block.index in removed else block(x)
        self.on_pass(self._plain_cost(removed, candidates) * seen / self._samples)
        return trials

    def weigh(self, removed: Collection[int], tried: Mapping[int, Trial]) -> dict[int, float]:
        """Return what decides between removals that were tried: here their divergence."""
        return {k: trial.divergence for k, trial in tried.items()}

    def compare(
        self, removed: Collection[int], candidates: Collection[int], every: int = 1
    ) -> tuple[dict[int, Trial], dict[int, float]]:
        """Return trials as `try_each` does, and what decides between them."""
        tried = self.within_memory(partial(self.try_each, removed, candidates, every))
        return tried, self.within_memory(partial(self.weigh, removed, tried))

    def settle(self, k: int, removed: Collection[int]) -> None:
        """Let a block go that was tried; ``removed`` are those that went before."""

    def _finish(self, x: Tensor, blocks: Iterable[int], removed: Collection[int]) -> Tensor:
        for k in blocks:
            x = self.chain.blocks[k].skip(x) if k in removed else self.chain.blocks[k](x)
        return self.chain.resume(self.chain.depth, x)


def _lost_in(original: Tensor, logits: Tensor) -> float:
    """Return the sum over images of KL(original || logits), infinite where one is not finite."""
    total = kl(original, logits)
    return max(total, 0.0) if math.isfinite(total) else math.inf
