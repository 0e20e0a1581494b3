"""The paper's pre-activation ResNet: two 3x3 convolutions a block, 1x1 projections, norm before the head.

Source: Puettschneider et al. 2025, equation (1) and appendix A.1; He et al. 2016, "Identity Mappings".
"""

from __future__ import annotations

from torch import Tensor, nn

from resprune.families.base import (
    Family,
    Part,
    Parts,
    Weights,
    block_counts,
    channels_of,
    chop,
    named,
    other_values,
    outputs_of,
)
from resprune.records import WHOLE, Architecture, Assumption, Preprocessing, Variants

_BLOCK_KEYS = {"bn1", "conv1", "bn2", "conv2", "downsample"}


class PreActBlock(nn.Module):
    """``x -> S(x) + conv2(relu(bn2(conv1(relu(bn1(x))))))``; S projects where width or size changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.downsample: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        return skip + self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(x))))))


class PreActResNet(nn.Module):
    """Stem, stages ``layer1..``, final norm, global average pool, classifier.

    Args:
        blocks: Blocks of every stage.
        widths: Filters of every stage; the first is the stem's too.
        stem_stride: Stride of the stem's 3x3 convolution.
        stem_norm: Whether batch norm and ReLU follow that convolution, as in the paper's appendix A.1.
        in_channels, classes: Of the images and the labels.
    """

    def __init__(
        self,
        blocks: list[int],
        widths: list[int],
        *,
        stem_stride: int,
        stem_norm: bool,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d | None = None
        if stem_norm:
            self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{stage + 1}" for stage in range(len(blocks))]
        width = widths[0]
        for stage, (name, count, out) in enumerate(zip(self.stages, blocks, widths, strict=True)):
            layer = nn.Sequential()
            for position in range(count):
                layer.append(PreActBlock(width, out, 2 if stage > 0 and position == 0 else 1))
                width = out
            self.add_module(name, layer)
        self.norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = self.relu(self.bn1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(self.avgpool(self.relu(self.norm(x))).flatten(1))


def architecture(
    name: str,
    blocks: list[int],
    widths: list[int],
    *,
    in_channels: int,
    classes: int,
    stem_stride: int = 1,
    stem_norm: bool = False,
) -> Architecture:
    """Return the architecture of a pre-activation network; see `PreActResNet` for the arguments."""
    options = {
        "widths": widths,
        "stem_stride": stem_stride,
        "stem_norm": stem_norm,
        "in_channels": in_channels,
        "classes": classes,
    }
    return Architecture("preact", name, tuple(WHOLE * count for count in blocks), options)


class PreAct(Family):
    """Adapter of `PreActResNet`."""

    name = "preact"

    def recognise(self, weights: Weights) -> Architecture | None:
        counts = block_counts(weights, _BLOCK_KEYS)
        if counts is None or not {"conv1.weight", "norm.weight", "fc.weight"} <= weights.keys():
            return None
        stem, classes = channels_of(weights, "conv1.weight"), outputs_of(weights, "fc.weight")
        widths = [outputs_of(weights, f"layer{stage + 1}.0.conv2.weight") for stage in range(len(counts))]
        if not all(widths) or not classes or not stem:
            return None
        depth = 2 * sum(counts) + 2
        return architecture(
            f"preact-resnet{depth}",
            counts,
            widths,
            in_channels=stem,
            classes=classes,
            stem_norm="bn1.weight" in weights,
        )

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        return PreActResNet(
            [max(1, len(stage)) for stage in architecture.stages],
            list(options["widths"]),
            stem_stride=options["stem_stride"],
            stem_norm=options.get("stem_norm", False),  # folders written before there was a choice have none
            in_channels=options["in_channels"],
            classes=options["classes"],
        )

    def depth_is_free(self, architecture: Architecture) -> bool:
        return True

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, PreActResNet)
        head = named(
            norm=network.norm, relu=network.relu, avgpool=network.avgpool, flatten=nn.Flatten(), fc=network.fc
        )
        stem = named(conv1=network.conv1)
        if network.bn1 is not None:
            stem = named(conv1=network.conv1, bn1=network.bn1, relu=network.relu)
        return Parts(
            stem=stem,
            blocks=chop(network, network.stages, self._part),
            head=head,
        )

    def _part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, PreActBlock)
        skip = named() if block.downsample is None else named(downsample=block.downsample)
        branch = nn.Sequential(block.bn1, block.relu, block.conv1, block.bn2, block.relu, block.conv2)
        return Part(path, stage, block, skip, branch, nn.Identity())

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        channels = architecture.options["in_channels"]
        size = 28 if channels == 1 else 32
        return Preprocessing(channels, size, size, (0.5,) * channels, (0.5,) * channels, source="assumed")

    def assumptions(self, architecture: Architecture) -> tuple[Assumption, ...]:
        value = architecture.options["stem_stride"]
        others = other_values(value, ("1", "2"))
        return (Assumption("stem_stride", str(value), others, "stride of the stem's convolution"),)

    def variants(self) -> tuple[Variants, ...]:
        return (Variants("the paper's pre-activation ResNet, homogeneous or staged", ()),)
