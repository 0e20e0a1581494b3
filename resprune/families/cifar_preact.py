"""kuangliu's pre-activation ResNets for CIFAR: the projection sees the normed input, no norm before the head.

Not the paper's own (`preact`), which projects the input itself and norms before the head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from resprune.families.base import (
    Family,
    Part,
    Parts,
    Weights,
    block_counts,
    chop,
    named,
    outputs_of,
    recipe_for,
)
from resprune.families.cifar_networks import EXPANSION
from resprune.records import WHOLE, Architecture, Preprocessing, Variants

_BLOCK_KEYS = {"bn1", "conv1", "bn2", "conv2", "bn3", "conv3", "shortcut"}


class CifarPreActBlock(nn.Module):
    """``x -> S(p) + F(p)`` with ``p = relu(bn1(x))``; S is the projection of p, or else x itself.

    Args:
        in_channels, out_channels: Of the block.
        stride: Of its first 3x3 convolution.
        bottleneck: Whether F is 1x1, 3x3, 1x1 convolutions rather than two 3x3.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        width = out_channels // EXPANSION if bottleneck else out_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.bn2 = nn.BatchNorm2d(width)
        if bottleneck:
            self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            self.bn3 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))

    @property
    def layers(self) -> list[nn.Module]:
        """F, with the norm and activation that S shares where it projects."""
        layers = [self.bn1, self.relu, self.conv1, self.bn2, self.relu, self.conv2]
        return [*layers, self.bn3, self.relu, self.conv3] if hasattr(self, "conv3") else layers

    def forward(self, x: Tensor) -> Tensor:
        norm, relu, *layers = self.layers
        out = relu(norm(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        for layer in layers:
            out = layer(out)
        return out + skip


class CifarPreActResNet(nn.Module):
    """Stem ``conv1``, stages ``layer1..``, global average pool, classifier ``linear``.

    Args:
        blocks: Blocks of every stage.
        outputs: Channels of every stage's blocks.
        stem: Channels of the stem.
        in_channels, classes: Of the images and the labels.
        bottleneck: See `CifarPreActBlock`.
    """

    def __init__(
        self,
        blocks: list[int],
        outputs: list[int],
        *,
        stem: int,
        in_channels: int,
        classes: int,
        bottleneck: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        self.stages = [f"layer{stage + 1}" for stage in range(len(blocks))]
        width = stem
        for stage, (name, count, out) in enumerate(zip(self.stages, blocks, outputs, strict=True)):
            layer = nn.Sequential()
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                layer.append(CifarPreActBlock(width, out, stride, bottleneck))
                width = out
            self.add_module(name, layer)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class CifarPreAct(Family):
    """Adapter of `CifarPreActResNet`."""

    name = "cifar-preact"

    def recognise(self, weights: Weights) -> Architecture | None:
        counts = block_counts(weights, _BLOCK_KEYS)
        if counts is None or not {"conv1.weight", "linear.weight"} <= weights.keys():
            return None
        stem = weights["conv1.weight"].shape
        if "bn1.weight" in weights or "layer1.0.bn1.weight" not in weights or stem[2:] != (3, 3):
            return None
        block = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
        widths = [outputs_of(weights, f"layer{stage + 1}.0.conv2.weight") for stage in range(len(counts))]
        classes = outputs_of(weights, "linear.weight")
        if not all(widths) or not all(stem) or not classes:
            return None
        options = {
            "block": block,
            "stem": stem[0],
            "widths": widths,
            "in_channels": stem[1],
            "classes": classes,
        }
        depth = (3 if block == "bottleneck" else 2) * sum(counts) + 2
        stages = tuple(WHOLE * count for count in counts)
        return Architecture(self.name, f"preactresnet{depth}", stages, options)

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        bottleneck = {"basic": False, "bottleneck": True}[options["block"]]
        return CifarPreActResNet(
            [max(1, len(stage)) for stage in architecture.stages],
            [(EXPANSION if bottleneck else 1) * width for width in options["widths"]],
            stem=options["stem"],
            in_channels=options["in_channels"],
            classes=options["classes"],
            bottleneck=bottleneck,
        )

    def depth_is_free(self, architecture: Architecture) -> bool:
        return True

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, CifarPreActResNet)
        head = named(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=network.linear)
        return Parts(nn.Sequential(network.conv1), chop(network, network.stages, self._part), head)

    def _part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, CifarPreActBlock)
        skip = named()
        if block.shortcut is not None:
            skip = named(bn1=block.bn1, relu=block.relu, shortcut=block.shortcut)
        return Part(path, stage, block, skip, nn.Sequential(*block.layers), nn.Identity())

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
        source = "the recipe of kuangliu's pytorch-cifar"
        return recipe_for(architecture.options["in_channels"], 32, mean, std, source=source)

    def variants(self) -> tuple[Variants, ...]:
        names = tuple(f"preactresnet{depth}" for depth in (18, 34, 50, 101, 152))
        return (Variants("kuangliu's PreActResNet", names),)
