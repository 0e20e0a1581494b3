"""`ResidualChain`: one view of every residual network, ``stem, blocks[0..N-1], tail, head``.

Everything below this file sees chains only and knows no family. In the paper's terms (equation 1):
``x_0 = stem(x)``, ``x_{k+1} = blocks[k](x_k)``, ``yhat = head(tail(x_N))``.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from resprune import families
from resprune.families import Family, Part
from resprune.records import Architecture, NetworkSummary, Origin, Preprocessing


@dataclass(frozen=True, eq=False)
class Block:
    """Residual block k, with the bare skip steps that lead to it from block k-1.

    A bare step before the block belongs to both its paths, S(lead(x)) and F(lead(x)), so that a chain
    with blocks removed from its middle is a chain again.
    """

    index: int
    part: Part
    lead: tuple[nn.Module, ...] = ()

    @property
    def path(self) -> str:
        """Name of the block in the native network."""
        return self.part.path

    @property
    def stage(self) -> int:
        """Zero-based stage."""
        return self.part.stage

    @property
    def branch(self) -> nn.Sequential:
        """The residual branch F."""
        assert self.part.branch is not None
        return self.part.branch

    @cached_property
    def steps(self) -> tuple[nn.Module, ...]:
        """What an exit passes in the block's place: the non-trivial skip steps, none for an identity."""
        return self.lead if self.part.step_is_trivial else (*self.lead, self.part.step())

    def skip(self, x: Tensor) -> Tensor:
        """Apply the skip step alone; returns x itself where the step is trivial."""
        for step in self.steps:
            x = step(x)
        return x

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the whole native block."""
        for step in self.lead:
            x = step(x)
        return self.part.module(x)


@dataclass(frozen=True, eq=False)
class ResidualChain:
    """A residual network in eval mode; blocks, stem, tail and head share the native network's layers.

    Attributes:
        network: The native network; its `state_dict` has the family's own names.
        architecture: Builds the same network again.
        preprocessing: Of its input images.
        origin: Where the weights came from.
        parts: All native blocks in order, bare skip steps included.
        stem, head: As in the paper; the head gives logits.
        blocks: Those with a residual branch, k = 0..N-1.
        tail: Bare skip steps after the last block; with the head they make the head of a SubResNet.
        family: Splits the native network, and builds others of its kind.
        exit_state: For networks trained with the stage cost, what the exits have of their own: name of a
            tensor in the native network -> (exits, ...), row k for exit k. Batch-norm statistics alone with
            shared heads, parameters too with separate ones; for the rest the exits use the network's own.
    """

    network: nn.Module
    architecture: Architecture
    preprocessing: Preprocessing
    origin: Origin
    parts: tuple[Part, ...]
    stem: nn.Sequential
    blocks: tuple[Block, ...]
    tail: tuple[nn.Module, ...]
    head: nn.Sequential
    family: Family
    exit_state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """N, the number of blocks with a residual branch."""
        return len(self.blocks)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.architecture.options["classes"]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.network.parameters()).device

    def resume(self, k: int, x: Tensor) -> Tensor:
        """Run the network from state ``x_k`` on: blocks k..N-1, tail, head; returns logits (n, classes)."""
        for block in self.blocks[k:]:
            x = block(x)
        for step in self.tail:
            x = step(x)
        return self.head(x)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (n, classes) of images (n, c, h, w)."""
        return self.resume(0, self.stem(images))

    def with_states(self, images: Tensor, wanted: Collection[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits (n, classes) of images (n, c, h, w), and states on the way.

        Args:
            images: As for the logits alone.
            wanted: For every state the number of parts that lie before it; 0 is the stem's.
        """
        x = self.stem(images)
        there = {0: x} if 0 in wanted else {}
        for count, part in enumerate(self.parts, start=1):
            x = part.module(x)
            there |= {count: x} if count in wanted else {}
        return self.head(x), tuple(there[count] for count in wanted)

    def duplicate(self) -> ResidualChain:
        """Return a chain with a network of its own, alike, and without what the exits have of theirs."""
        network = copy.deepcopy(self.network)
        return assemble(network, self.architecture, self.preprocessing, self.origin, family=self.family)

    def tensor_names(self) -> dict[int, str]:
        """Return every parameter's and buffer's name in the native network, by its id."""
        return {id(tensor): name for name, tensor in self.network.state_dict(keep_vars=True).items()}

    @cached_property
    def outline(self) -> ResidualChain:
        """The same chain on the meta device: shapes and no numbers."""
        tensors = (*self.network.parameters(), *self.network.buffers())
        memo: dict[int, Any] = {id(tensor): _without_numbers(tensor) for tensor in tensors}
        network = copy.deepcopy(self.network, memo)
        return assemble(network, self.architecture, self.preprocessing, self.origin, family=self.family)

    @cached_property
    def _costs(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        return _count(self if self.device.type == "meta" else self.outline)

    @property
    def costs(self) -> tuple[tuple[int, int], ...]:
        """(multiply-accumulates for one image, parameters) of every whole block."""
        return self._costs[1]

    @cached_property
    def summary(self) -> NetworkSummary:
        """Identity and size, for reports; no weights are needed."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return NetworkSummary(self.origin, self.architecture, self.depth, parameters, self._costs[0])


def assemble(
    network: nn.Module,
    architecture: Architecture,
    preprocessing: Preprocessing,
    origin: Origin,
    exit_state: Mapping[str, Tensor] | None = None,
    family: Family | None = None,
) -> ResidualChain:
    """View a native network as a chain; nothing is copied. See `ResidualChain` for the arguments."""
    family = family or families.family_of(architecture)
    parts = family.split(network, architecture)
    blocks: list[Block] = []
    waiting: list[nn.Module] = []
    for part in parts.blocks:
        if part.branch is None:
            waiting.append(part.module)
        else:
            blocks.append(Block(len(blocks), part, tuple(waiting)))
            waiting.clear()
    return ResidualChain(
        network=network,
        architecture=architecture,
        preprocessing=preprocessing,
        origin=origin,
        parts=parts.blocks,
        stem=parts.stem,
        blocks=tuple(blocks),
        tail=tuple(waiting),
        head=parts.head,
        family=family,
        exit_state=dict(exit_state or {}),
    )


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name, the same on every device."""
    whole = sha256()
    for name, tensor in tensors.items():
        whole.update(name.encode())
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def seeded_images(preprocessing: Preprocessing, count: int, seed: int, size: int | None = None) -> Tensor:
    """Return standard normal images (count, c, h, w), the stand-in where no data was given."""
    height = preprocessing.height if size is None else min(size, preprocessing.height)
    width = preprocessing.width if size is None else min(size, preprocessing.width)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, preprocessing.channels, height, width, generator=generator)


def _without_numbers(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


class _ShapesOnly(TorchFunctionMode):
    """Leave out norms and activations: they multiply nothing, keep the shape, and are slow on meta."""

    _KEEP_THE_SHAPE = frozenset({F.batch_norm, F.relu, F.relu_, F.silu, F.leaky_relu, F.group_norm})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0] if func in self._KEEP_THE_SHAPE else func(*args, **(kwargs or {}))


def _count(chain: ResidualChain) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return a chain's multiply-accumulates and (macs, parameters) of every block; the chain is on meta."""
    recipe = chain.preprocessing
    image = torch.empty(1, recipe.channels, recipe.height, recipe.width, device="meta")
    costs = []
    with torch.no_grad(), _ShapesOnly(), FlopCounterMode(display=False) as counter:
        x = chain.stem(image)
        for block in chain.blocks:
            for step in block.lead:
                x = step(x)
            before = counter.get_total_flops()
            x = block.part.module(x)
            macs = (counter.get_total_flops() - before) // 2
            costs.append((macs, sum(p.numel() for p in block.part.module.parameters())))
        chain.resume(chain.depth, x)
    return counter.get_total_flops() // 2, tuple(costs)
