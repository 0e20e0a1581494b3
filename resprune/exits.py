"""The skip-chain exits of a chain, all of them in one pass.

Exit k (paper, equation 2) is ``yhat_k = H(s_{N-1}(... s_k(x_k)))``. Only non-trivial skip steps cost
anything, and three things make them cheap:

- Exits between the same two non-trivial steps go through the rest of the way as one batch.
- Strided 1x1 projections and option-A shortcuts look at every s-th pixel only. A run of them looks at
  every (s1 * s2 * ...)-th, so a state is cut down to those pixels before it is stored; in training, when a
  norm between them has to see all pixels, what it gives is.
- States are let go as soon as a batch of them is full: memory does not grow with the depth.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resprune.chain import ResidualChain
from resprune.exit_layers import ExitNorm, Layer, Rows, exit_layers
from resprune.families.layers import PadChannels, Subsample, is_global_pool, leaves

BATCH_BYTES = 4 << 20
"""States are pushed on once this many bytes wait, as float32, in which statistics are computed: large enough
for a full matrix product, small enough to stay in cache. On two CPU cores 1 MiB took longer, more no less."""

_POINTWISE = (nn.BatchNorm2d, nn.ReLU, nn.Identity, PadChannels)


class _Tap(torch.autograd.Function):
    """A state on its way through the network, and every s-th pixel of it for its exit.

    The exit's gradient is added to the state's in place, at those pixels. Autograd by itself would spread it
    into a tensor of the state's size and add all of that, which costs more than the exit. The state's
    gradient is nobody else's: a block reads its input at least twice or through a layer of its own, so that
    it is a sum, or a layer's result, made for this node alone.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, stride: int
    ) -> tuple[Tensor, Tensor]:
        ctx.stride = stride
        return x.view_as(x), x[:, :, ::stride, ::stride].clone(memory_format=torch.preserve_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, of_exit: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad[:, :, :: ctx.stride, :: ctx.stride] += of_exit
        return grad, None


@dataclass(frozen=True)
class _Way:
    """What exits first..last pass from their states to the logits, and which pixels they look at.

    Attributes:
        first, last: Exits.
        stride: Of the pixels that are looked at, in both directions.
        alone: Layers without tensors that leave little of a state: passed before it waits for others.
        together: Layers that the waiting states pass as one batch.
        overwrites: Whether the first of them works in place, on what is the network's own state too.
    """

    first: int
    last: int
    stride: int
    alone: tuple[nn.Module, ...]
    together: tuple[Layer, ...]
    overwrites: bool


class SkipChainExits:
    """The exits k = 0..N-1 of a chain; exit N is the network itself and is not among them.

    Args:
        chain: Any chain; its layers are shared, and what its exits have of their own is used in place.
    """

    def __init__(self, chain: ResidualChain) -> None:
        self.depth = chain.depth
        self._chain = chain
        self._names = chain.tensor_names()
        self._ways = {training: tuple(self._compile(training)) for training in (False, True)}

    def _compile(self, training: bool) -> Iterable[_Way]:
        chain, rungs = self._chain, _rungs(self._chain)
        starts = sorted({0, *(position + 1 for position, _ in rungs)} - {chain.depth})
        for first, end in pairwise([*starts, chain.depth]):
            steps = [leaf for position, step in rungs if position >= first for leaf in leaves(step)]
            stride, layers = _look_ahead(steps, training)
            layers += leaves(chain.head)
            alone = _up_to_pooling(layers)
            together = tuple(exit_layers(layers[len(alone) :], self._rows_of))
            yield _Way(first, end - 1, stride, tuple(alone), together, _overwrites(layers))

    def _rows_of(self, layer: nn.Module) -> Rows:
        own = {name: self._names.get(id(t), "") for name, t in layer.state_dict(keep_vars=True).items()}
        state, device = self._chain.exit_state, self._chain.device
        return {name: state[native].to(device) for name, native in own.items() if native in state}

    def start(self) -> ExitPass:
        """Begin a pass: hand it every state ``x_k``, k ascending, then ask for the logits."""
        return ExitPass(self._ways[self._chain.network.training])

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (n, N + 1, classes) of all exits and the network, in one forward pass."""
        chain, climb = self._chain, self.start()
        x = chain.stem(images)
        for block in chain.blocks:
            x = block(climb.add(x))
        return climb.logits(chain.resume(chain.depth, x))


class ExitPass:
    """One pass of a batch through the exits; states are released as soon as their batch is full."""

    def __init__(self, ways: Sequence[_Way]) -> None:
        self._ways = list(ways)
        self._exit = 0
        self._waiting: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(self, x: Tensor) -> Tensor:
        """Take state ``x_k`` (n, c, h, w), for k = 0, 1, ... in turn; returns it, for block k to go on with."""
        way, state = self._ways[0], x
        if way.stride > 1 and x.requires_grad:
            x, state = _Tap.apply(x, way.stride)  # pyright: ignore[reportGeneralTypeIssues]
        elif way.stride > 1:
            state = x[:, :, :: way.stride, :: way.stride]
        if way.overwrites:
            state = state.clone(memory_format=torch.preserve_format)
        for layer in way.alone:
            state = layer(state)
        if way.stride > 1 and not way.alone and not way.overwrites and not x.requires_grad:
            # A copy, not a view: a view would keep the whole state alive.
            state = state.clone(memory_format=torch.preserve_format)
        self._waiting.append(state)
        self._exit += 1
        waiting = sum(state.numel() for state in self._waiting)
        if self._exit > way.last or 4 * waiting >= BATCH_BYTES:
            self._push()
        if self._exit > way.last:
            self._ways.pop(0)
        return x

    def logits(self, final: Tensor) -> Tensor:
        """Return (n, N + 1, classes): the exits, and last the network's own logits (n, classes)."""
        assert not self._ways, "every state x_0..x_{N-1} must be added first"
        return torch.cat([*self._logits, final.unsqueeze(1)], dim=1)

    def _push(self) -> None:
        exits = slice(self._exit - len(self._waiting), self._exit)
        together = self._ways[0].together
        x = _stacked(self._waiting, images_first=any(isinstance(layer, ExitNorm) for layer in together[:1]))
        self._waiting.clear()
        for layer in together:
            x = layer(x, exits)
        self._logits.append(x.transpose(0, 1))


def _stacked(states: Sequence[Tensor], *, images_first: bool) -> Tensor:
    """Return states (n, c, h, w) as (e, n, c, h, w), in the order in memory that the next layer wants."""
    if len(states) == 1:
        return states[0].unsqueeze(0)
    if images_first:
        return torch.stack(list(states), dim=1).transpose(0, 1)
    if states[0].is_contiguous(memory_format=torch.channels_last):
        return torch.stack([state.permute(0, 2, 3, 1) for state in states]).permute(0, 1, 4, 2, 3)
    return torch.stack(list(states))


def layers_on_the_way(chain: ResidualChain) -> list[tuple[nn.Module, int]]:
    """Return the layers that exits pass, each with the number of exits that do: exits 0, 1, ... up to it."""
    rungs = [(leaf, position + 1) for position, step in _rungs(chain) for leaf in leaves(step)]
    return rungs + [(leaf, chain.depth) for leaf in leaves(chain.head)]


def _rungs(chain: ResidualChain) -> list[tuple[int, nn.Module]]:
    """Return the non-trivial skip steps, each with the last exit that passes it."""
    rungs = [(block.index, step) for block in chain.blocks for step in block.steps]
    return rungs + [(chain.depth - 1, step) for step in chain.tail]


def _up_to_pooling(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the first layers up to a global pooling where none of them has tensors, else nothing."""
    for count, layer in enumerate(layers, start=1):
        if is_global_pool(layer):
            return list(layers[:count])
        if not isinstance(layer, nn.ReLU | nn.Identity | PadChannels | Subsample):
            break
    return []


def _overwrites(layers: Sequence[nn.Module]) -> bool:
    """Whether the first layer that does anything in inference works in place."""
    first = next((layer for layer in layers if not isinstance(layer, (nn.Identity, nn.Dropout))), None)
    return bool(getattr(first, "inplace", False))


def _look_ahead(steps: Sequence[nn.Module], training: bool) -> tuple[int, list[nn.Module]]:
    """Return which pixels of a state the steps look at, and the steps for those.

    A stride is moved to the front through all layers that map each pixel alone. A norm in training looks at
    all pixels that it gets: the stride stays right behind it.
    """
    stride, layers = 1, []
    for layer in reversed(steps):
        own = _pixel_stride(layer)
        if own is None or (training and isinstance(layer, nn.BatchNorm2d)):
            layers += [layer] if stride == 1 else [Subsample(stride), layer]
            stride = 1
        else:
            layers.append(_unstrided(layer))
            stride *= own
    return stride, layers[::-1]


def _pixel_stride(layer: nn.Module) -> int | None:
    """Return s where a layer maps each pixel alone and keeps every s-th, else None."""
    if isinstance(layer, nn.Conv2d):
        alone = layer.kernel_size == (1, 1) and layer.padding == (0, 0)
        return layer.stride[0] if alone and layer.stride[0] == layer.stride[1] else None
    if isinstance(layer, Subsample):
        return layer.stride
    return 1 if isinstance(layer, _POINTWISE) else None


def _unstrided(leaf: nn.Module) -> nn.Module:
    """Return the layer for input of which only its own pixels are left; parameters are shared."""
    if isinstance(leaf, Subsample):
        return nn.Identity()
    if isinstance(leaf, nn.Conv2d) and leaf.stride != (1, 1):
        leaf = copy.copy(leaf)
        leaf.stride = (1, 1)
    return leaf
