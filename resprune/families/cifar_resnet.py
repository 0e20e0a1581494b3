"""CIFAR ResNets of basic blocks with a 3x3 stem: He et al. 2016, section 4.2, and what grew from it.

Names ``conv1, bn1, layer1.., linear``, as in Y. Idelbayev's version (three stages, parameter-free "option A"
shortcuts, or "option B" projections) and in kuangliu's (four stages, option B).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from resprune.families.base import (
    Family,
    Part,
    Parts,
    Weights,
    block_counts,
    channels_of,
    chop,
    named,
    outputs_of,
)
from resprune.families.layers import PadChannels, Subsample
from resprune.records import WHOLE, Architecture, Assumption, Preprocessing

_BLOCK_KEYS = {"conv1", "bn1", "conv2", "bn2", "shortcut"}


_RECIPES = {
    False: ("the recipe of pytorch_resnet_cifar10", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    True: ("the recipe of kuangliu's pytorch-cifar", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


class CifarBlock(nn.Module):
    """``x -> relu(S(x) + bn2(conv2(relu(bn1(conv1(x))))))``.

    Where width or size changes, S slices and pads with zero channels (option A) or projects (option B).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        changes = stride != 1 or in_channels != out_channels
        if changes and shortcut == "B":
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))
        elif changes:
            extra = out_channels - in_channels
            self.shortcut = nn.Sequential(Subsample(stride), PadChannels(extra // 2, extra - extra // 2))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(out)))


class CifarResNet(nn.Module):
    """Stem, stages ``layer1..``, global average pool, classifier ``linear``.

    Args:
        blocks: Blocks of every stage.
        widths: Filters of every stage; the first is the stem's too.
        in_channels, classes: Of the images and the labels.
        shortcut: ``A`` or ``B``.
    """

    def __init__(
        self, blocks: list[int], widths: list[int], in_channels: int, classes: int, shortcut: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{stage + 1}" for stage in range(len(blocks))]
        width = widths[0]
        for stage, (name, count, out) in enumerate(zip(self.stages, blocks, widths, strict=True)):
            layer = nn.Sequential()
            for position in range(count):
                layer.append(CifarBlock(width, out, 2 if stage > 0 and position == 0 else 1, shortcut))
                width = out
            self.add_module(name, layer)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class CifarResNets(Family):
    """Adapter of `CifarResNet`."""

    name = "cifar-resnet"

    def recognise(self, weights: Weights) -> Architecture | None:
        counts = block_counts(weights, _BLOCK_KEYS)
        if counts is None or not {"conv1.weight", "bn1.weight", "linear.weight"} <= weights.keys():
            return None
        if weights["conv1.weight"].shape[2:] != (3, 3):
            return None
        options = {
            "widths": [outputs_of(weights, f"layer{stage + 1}.0.conv2.weight") for stage in range(len(counts))],
            "in_channels": channels_of(weights, "conv1.weight"),
            "classes": outputs_of(weights, "linear.weight"),
            "shortcut": "B" if any(".shortcut." in key for key in weights) else "A",
        }
        if not all(options["widths"]) or not options["classes"]:
            return None
        stages = tuple(WHOLE * count for count in counts)
        return Architecture(self.name, f"resnet{2 * sum(counts) + 2}", stages, options)

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        blocks = [max(1, len(stage)) for stage in architecture.stages]
        return CifarResNet(
            blocks,
            list(options["widths"]),
            options["in_channels"],
            options["classes"],
            options["shortcut"],
        )

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, CifarResNet)
        head = named(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), linear=network.linear)
        return Parts(
            stem=nn.Sequential(network.conv1, network.bn1, nn.ReLU()),
            blocks=chop(network, network.stages, self._part),
            head=head,
        )

    def _part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, CifarBlock)
        skip = named(shortcut=block.shortcut) if len(block.shortcut) else named()
        branch = nn.Sequential(block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2)
        return Part(path, stage, block, skip, branch, nn.ReLU())

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        channels = architecture.options["in_channels"]
        source, mean, std = _RECIPES[len(architecture.stages) == 4]
        if channels != 3:
            source, mean, std = "none known for such images", (0.5,) * channels, (0.5,) * channels
        return Preprocessing(channels, 32, 32, mean, std, source=f"{source}, assumed")

    def assumptions(self, architecture: Architecture) -> tuple[Assumption, ...]:
        if architecture.options["shortcut"] == "B":
            return ()
        return (Assumption("padding", "centred", (), "where option-A shortcuts put their zero channels"),)

    def timm_config(self, architecture: Architecture) -> dict[str, Any] | None:
        return None
