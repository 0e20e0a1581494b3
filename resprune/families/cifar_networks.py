"""The networks of `cifar_resnet`: one class for all lineages, which differ in the names of their layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from resprune.families.base import LAYERS
from resprune.families.layers import PadChannels, Subsample, put

EXPANSION = 4
"""Outputs of a bottleneck, in widths of its 3x3 convolution."""
_LAYERS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))
_STACKED = "residual_function"


@dataclass(frozen=True)
class Names:
    """Where one lineage of networks has its layers.

    Attributes:
        stem: The stem's convolution and norm.
        container: Of a stage's blocks, ``{}`` for its number; without it all stages are in one sequence.
        first: Number of the first stage.
        pattern: Of a block's parameters; see `block_counts`.
        layers: Convolutions and norms of a block; only bottlenecks have the third.
        shortcut: Of a block; what projects is its children ``0`` and ``1``.
        classifier: The last layer.
    """

    stem: tuple[str, str] = ("conv1", "bn1")
    container: str = "layer{}"
    first: int = 1
    pattern: str = LAYERS
    layers: tuple[tuple[str, str], ...] = _LAYERS
    shortcut: str = "shortcut"
    classifier: str = "fc"

    @property
    def is_flat(self) -> bool:
        """Whether one sequence holds the blocks of all stages."""
        return "{}" not in self.container

    @property
    def block_keys(self) -> set[str]:
        """Names of the children that a block may have."""
        return {path.split(".")[0] for pair in self.layers for path in pair} | {self.shortcut}

    def containers(self, stages: int) -> list[str]:
        """Return the path of every stage's sequence."""
        return [self.container.format(self.first + stage) for stage in range(stages)]


LINEAGES: dict[str, Names] = {
    # Y. Idelbayev's pytorch_resnet_cifar10 and kuangliu's pytorch-cifar
    "akamaster": Names(classifier="linear"),
    # chenyaofo's pytorch-cifar-models, torchvision's names
    "chenyaofo": Names(shortcut="downsample"),
    # facebookresearch/open_lth
    "open_lth": Names(
        stem=("conv", "bn"),
        container="blocks",
        pattern=r"blocks\.(?P<block>[0-9]{1,4})\.(?P<child>[^.]+)\.",
    ),
    # weiaicunzai's pytorch-cifar100
    "weiaicunzai": Names(
        stem=("conv1.0", "conv1.1"),
        container="conv{}_x",
        first=2,
        pattern=r"conv(?P<stage>[0-9]{1,4})_x\.(?P<block>[0-9]{1,4})\.(?P<child>[^.]+)\.",
        layers=tuple((f"{_STACKED}.{3 * k}", f"{_STACKED}.{3 * k + 1}") for k in range(3)),
    ),
}


class CifarBlock(nn.Module):
    """``x -> relu(S(x) + F(x))``; F is two 3x3 convolutions, or 1x1, 3x3, 1x1, each with its norm.

    Args:
        names: Of the layers.
        in_channels, out_channels: Of the block.
        stride: Of its first 3x3 convolution.
        bottleneck: Whether F is the second kind.
        shortcut: What S is where width or size changes: ``B`` projects; ``centred`` and ``trailing`` slice
            and put zero channels around the input's, or behind them (option A).
    """

    def __init__(
        self, names: Names, in_channels: int, out_channels: int, stride: int, bottleneck: bool, shortcut: str
    ) -> None:
        super().__init__()
        self.layers = names.layers if bottleneck else names.layers[:2]
        self.shortcut_name = names.shortcut
        kernels, strides = ((1, 3, 1), (1, stride, 1)) if bottleneck else ((3, 3), (stride, 1))
        channels, width = in_channels, out_channels // EXPANSION if bottleneck else out_channels
        for (conv, norm), kernel, step in zip(self.layers, kernels, strides, strict=True):
            out = out_channels if norm == self.layers[-1][1] else width
            put(self, conv, nn.Conv2d(channels, out, kernel, step, padding=kernel // 2, bias=False))
            put(self, norm, nn.BatchNorm2d(out))
            channels = out
        changes = stride != 1 or in_channels != out_channels
        self.add_module(
            names.shortcut,
            _shortcut(in_channels, out_channels, stride, shortcut) if changes else nn.Sequential(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv, norm in self.layers:
            out = self.get_submodule(norm)(self.get_submodule(conv)(out))
            if norm != self.layers[-1][1]:
                out = F.relu(out)
        return F.relu(self.get_submodule(self.shortcut_name)(x) + out)


def _shortcut(in_channels: int, out_channels: int, stride: int, kind: str) -> nn.Sequential:
    if kind == "B":
        projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        return nn.Sequential(projection, nn.BatchNorm2d(out_channels))
    extra = out_channels - in_channels
    if extra < 0:
        raise ValueError(f"an option-A shortcut from {in_channels} to {out_channels} channels")
    before = {"centred": extra // 2, "trailing": 0}[kind]
    return nn.Sequential(Subsample(stride), PadChannels(before, extra - before))


class CifarResNet(nn.Module):
    """Stem, stages, global average pool, classifier.

    Args:
        names: Of the layers.
        blocks: Blocks of every stage.
        outputs: Channels of every stage's blocks.
        stem: Channels of the stem.
        in_channels, classes: Of the images and the labels.
        bottleneck, shortcut: See `CifarBlock`.
    """

    def __init__(
        self,
        names: Names,
        blocks: list[int],
        outputs: list[int],
        *,
        stem: int,
        in_channels: int,
        classes: int,
        bottleneck: bool,
        shortcut: str,
    ) -> None:
        super().__init__()
        self.names, self.stages = names, names.containers(len(blocks))
        put(self, names.stem[0], nn.Conv2d(in_channels, stem, 3, padding=1, bias=False))
        put(self, names.stem[1], nn.BatchNorm2d(stem))
        for path in dict.fromkeys(self.stages):
            self.add_module(path, nn.Sequential())
        width = stem
        for stage, (path, count, out) in enumerate(zip(self.stages, blocks, outputs, strict=True)):
            layer = self.get_submodule(path)
            assert isinstance(layer, nn.Sequential)
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                layer.append(CifarBlock(names, width, out, stride, bottleneck, shortcut))
                width = out
        self.add_module(names.classifier, nn.Linear(width, classes))

    def forward(self, x: Tensor) -> Tensor:
        convolution, norm = map(self.get_submodule, self.names.stem)
        x = F.relu(norm(convolution(x)))
        for path in dict.fromkeys(self.stages):
            x = self.get_submodule(path)(x)
        return self.get_submodule(self.names.classifier)(F.adaptive_avg_pool2d(x, 1).flatten(1))
