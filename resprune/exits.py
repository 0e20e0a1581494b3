"""The skip-chain exits of a chain, all of them in one pass.

Exit k (paper, equation 2) is ``yhat_k = H(s_{N-1}(... s_k(x_k)))``. Only non-trivial skip steps cost
anything, and three things make them cheap:

- Exits between the same two non-trivial steps go through the rest of the way as one batch.
- Strided 1x1 projections and option-A shortcuts look at every s-th pixel only. A run of them looks at
  every (s1 * s2 * ...)-th, so a state is cut down to those pixels before it is stored.
- States are let go as soon as a batch of them is full: memory does not grow with the depth.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resprune.chain import ExitStatistics, ResidualChain
from resprune.families.layers import PadChannels, Subsample, leaves

BATCH_BYTES = 2 << 20
"""States are pushed on once this many bytes wait: large enough for a full matrix product, small enough to
stay in cache. On two CPU cores 1 to 4 MiB took the same time, 8 MiB longer."""

_POINTWISE = (nn.BatchNorm2d, nn.ReLU, nn.Identity, PadChannels)


class ExitNorm:
    """One batch norm as the exits see it: its weight and bias, but statistics of every exit's own.

    Args:
        norm: The native layer; its parameters are shared, its statistics are not touched.
        statistics: (exits, channels) of mean and variance; updated in place in training mode.
    """

    def __init__(self, norm: nn.BatchNorm2d, statistics: ExitStatistics) -> None:
        self.norm, self.statistics = norm, statistics

    def __call__(self, x: Tensor, exits: slice) -> Tensor:
        """Normalise (e * n, c, h, w), exit-major, for the e exits of the slice."""
        mean, var = self.statistics.mean[exits], self.statistics.var[exits]
        count, channels = mean.shape
        norm = self.norm
        weight = None if norm.weight is None else norm.weight.repeat(count)
        bias = None if norm.bias is None else norm.bias.repeat(count)
        # One call over exits times channels: (n, e * c, h, w).
        wide = x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
        out = F.batch_norm(
            wide,
            mean.view(-1),
            var.view(-1),
            weight,
            bias,
            training=norm.training,
            momentum=0.1 if norm.momentum is None else norm.momentum,
            eps=norm.eps,
        )
        out = out.unflatten(1, (count, channels)).transpose(0, 1).flatten(0, 1)
        # timm's BatchNormAct2d is a norm that carries its activation.
        return norm.act(norm.drop(out)) if hasattr(norm, "act") else out  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class _Way:
    """What exits first..last pass from their states to the logits, and which pixels they look at."""

    first: int
    last: int
    stride: int
    layers: tuple[nn.Module | ExitNorm, ...]


class SkipChainExits:
    """The exits k = 0..N-1 of a chain; exit N is the network itself and is not among them.

    Args:
        chain: Any chain; its layers are shared.
        own_statistics: Give every exit its own statistics, starting from the network's, where the chain
            has none yet: for training with shared heads (`ResNet_WS`).
    """

    def __init__(self, chain: ResidualChain, *, own_statistics: bool = False) -> None:
        self.depth = chain.depth
        self.norms: dict[str, ExitNorm] = {}
        self._paths = chain.named_norms()
        self._chain = chain
        self._own_statistics = own_statistics
        self._ways = tuple(self._compile())

    def _compile(self) -> Iterable[_Way]:
        chain = self._chain
        # A rung is a non-trivial skip step, with the last exit that passes it.
        rungs = [(block.index, step) for block in chain.blocks for step in block.steps]
        rungs += [(chain.depth - 1, step) for step in chain.tail]
        starts = sorted({0, *(position + 1 for position, _ in rungs)} - {chain.depth})
        for first, end in pairwise([*starts, chain.depth]):
            ahead = [(position, leaves(step)) for position, step in rungs if position >= first]
            stride = 1
            layers: list[nn.Module | ExitNorm] = []
            sliceable = True
            for position, row in ahead:
                step_stride = _pixel_stride(row) if sliceable else None
                sliceable = step_stride is not None
                if step_stride is not None:
                    stride *= step_stride
                    row = [_unstrided(leaf) for leaf in row]
                layers += [self._with_statistics(leaf, position + 1) for leaf in row]
            layers += [self._with_statistics(leaf, chain.depth) for leaf in leaves(chain.head)]
            yield _Way(first, end - 1, stride, tuple(layers))

    def _with_statistics(self, leaf: nn.Module, exits: int) -> nn.Module | ExitNorm:
        path = self._paths.get(leaf)
        if path is None or not isinstance(leaf, nn.BatchNorm2d):
            return leaf
        if path not in self.norms:
            statistics = self._chain.exit_statistics.get(path)
            if statistics is None and not self._own_statistics:
                return leaf
            if statistics is None:
                assert leaf.running_mean is not None
                assert leaf.running_var is not None
                statistics = ExitStatistics(
                    leaf.running_mean.repeat(exits, 1), leaf.running_var.repeat(exits, 1)
                )
            self.norms[path] = ExitNorm(
                leaf, ExitStatistics(*(tensor.to(self._chain.device) for tensor in statistics))
            )
        return self.norms[path]

    def start(self) -> ExitPass:
        """Begin a pass: hand it every state ``x_k``, k ascending, then ask for the logits."""
        return ExitPass(self._ways)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (n, N + 1, classes) of all exits and the network, in one forward pass."""
        chain, climb = self._chain, self.start()
        x = chain.stem(images)
        for block in chain.blocks:
            climb.add(x)
            x = block(x)
        return climb.logits(chain.resume(chain.depth, x))


class ExitPass:
    """One pass of a batch through the exits; states are released as soon as their batch is full."""

    def __init__(self, ways: Sequence[_Way]) -> None:
        self._ways = list(ways)
        self._exit = 0
        self._waiting: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Take state ``x_k`` (n, c, h, w), for k = 0, 1, ... in turn."""
        way = self._ways[0]
        if way.stride > 1:
            # A copy, not a view: a view would keep the whole state alive.
            x = x[:, :, :: way.stride, :: way.stride].clone(memory_format=torch.preserve_format)
        self._waiting.append(x)
        self._exit += 1
        waiting_bytes = sum(state.nbytes for state in self._waiting)
        if self._exit > way.last or waiting_bytes >= BATCH_BYTES:
            self._push()
        if self._exit > way.last:
            self._ways.pop(0)

    def logits(self, final: Tensor) -> Tensor:
        """Return (n, N + 1, classes): the exits, and last the network's own logits (n, classes)."""
        assert not self._ways, "every state x_0..x_{N-1} must be added first"
        return torch.cat([*self._logits, final.unsqueeze(0)]).transpose(0, 1)

    def _push(self) -> None:
        count = len(self._waiting)
        exits = slice(self._exit - count, self._exit)
        n = len(self._waiting[0])
        x = torch.cat(self._waiting) if count > 1 else self._waiting[0]
        self._waiting.clear()
        for layer in self._ways[0].layers:
            x = layer(x, exits) if isinstance(layer, ExitNorm) else layer(x)
        self._logits.append(x.unflatten(0, (count, n)))


def _pixel_stride(row: Sequence[nn.Module]) -> int | None:
    """Return s where the layers map each pixel alone and keep every s-th, else None."""
    stride = 1
    for leaf in row:
        if isinstance(leaf, nn.Conv2d):
            if leaf.kernel_size != (1, 1) or leaf.padding != (0, 0) or leaf.stride[0] != leaf.stride[1]:
                return None
            stride *= leaf.stride[0]
        elif isinstance(leaf, Subsample):
            stride *= leaf.stride
        elif not isinstance(leaf, _POINTWISE):
            return None
    return stride


def _unstrided(leaf: nn.Module) -> nn.Module:
    """Return the layer for input of which only its own pixels are left; parameters are shared."""
    if isinstance(leaf, Subsample):
        return nn.Identity()
    if isinstance(leaf, nn.Conv2d) and leaf.stride != (1, 1):
        leaf = copy.copy(leaf)
        leaf.stride = (1, 1)
    return leaf
