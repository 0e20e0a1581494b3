"""torchvision's `ResNet`: basic and bottleneck blocks, ResNeXt, wide; plain timm reads the same names."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from resprune.families.base import Family, Part, Parts, Weights, block_counts, chop, named, outputs_of
from resprune.records import WHOLE, Architecture, Assumption, Preprocessing

_BLOCK_KEYS = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"}
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
_NAMES: dict[tuple[str, int, int, tuple[int, ...]], str] = {
    ("basic", 1, 64, (2, 2, 2, 2)): "resnet18",
    ("basic", 1, 64, (3, 4, 6, 3)): "resnet34",
    ("bottleneck", 1, 64, (3, 4, 6, 3)): "resnet50",
    ("bottleneck", 1, 64, (3, 4, 23, 3)): "resnet101",
    ("bottleneck", 1, 64, (3, 8, 36, 3)): "resnet152",
    ("bottleneck", 32, 4, (3, 4, 6, 3)): "resnext50_32x4d",
    ("bottleneck", 32, 8, (3, 4, 23, 3)): "resnext101_32x8d",
    ("bottleneck", 64, 4, (3, 4, 23, 3)): "resnext101_64x4d",
    ("bottleneck", 1, 128, (3, 4, 6, 3)): "wide_resnet50_2",
    ("bottleneck", 1, 128, (3, 4, 23, 3)): "wide_resnet101_2",
}


class TorchvisionResNet(Family):
    """Adapter of `torchvision.models.ResNet`, version 1.5 (stride in the 3x3 convolution)."""

    name = "torchvision-resnet"

    def recognise(self, weights: Weights) -> Architecture | None:
        counts = block_counts(weights, _BLOCK_KEYS)
        if counts is None or len(counts) != len(_STAGES) or not {"conv1.weight", "fc.weight"} <= weights.keys():
            return None
        if weights["conv1.weight"].shape != (64, 3, 7, 7):
            return None
        middle = weights.get("layer1.0.conv2.weight")
        classes = outputs_of(weights, "fc.weight")
        if middle is None or middle.ndim != 4 or not middle.shape[1] or not classes:
            return None
        block = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
        groups = middle.shape[0] // middle.shape[1]
        width = middle.shape[0] // max(1, groups)
        options = {
            "block": block,
            "groups": groups,
            "width_per_group": width,
            "classes": classes,
        }
        stages = tuple(WHOLE * count for count in counts)
        fallback = f"resnet-{block}-{'-'.join(map(str, counts))}"
        return Architecture(
            self.name, _NAMES.get((block, groups, width, tuple(counts)), fallback), stages, options
        )

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        return ResNet(
            _BLOCKS[options["block"]],
            [max(1, len(stage)) for stage in architecture.stages],
            num_classes=options["classes"],
            groups=options["groups"],
            width_per_group=options["width_per_group"],
        )

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, ResNet)
        head = named(avgpool=network.avgpool, flatten=nn.Flatten(), fc=network.fc)
        return Parts(
            stem=nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool),
            blocks=chop(network, _STAGES, self._part),
            head=head,
        )

    def _part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, BasicBlock | Bottleneck)
        skip = named() if block.downsample is None else named(downsample=block.downsample)
        layers = [block.conv1, block.bn1, block.relu, block.conv2, block.bn2]
        if isinstance(block, Bottleneck):
            layers += [block.relu, block.conv3, block.bn3]
        return Part(path, stage, block, skip, nn.Sequential(*layers), block.relu)

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        return Preprocessing(
            channels=3,
            height=224,
            width=224,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            resize=256,
            source="torchvision's ImageNet recipe, assumed",
        )

    def assumptions(self, architecture: Architecture) -> tuple[Assumption, ...]:
        if architecture.options["block"] == "basic":
            return ()
        meaning = (
            "convolution of a bottleneck that has the stride; 3x3 is version 1.5, torchvision's and timm's"
        )
        return (Assumption("stride", "3x3", (), meaning),)

    def timm_config(self, architecture: Architecture) -> dict[str, Any] | None:
        if not architecture.is_stock:
            return None
        options = architecture.options
        layers = [len(stage) for stage in architecture.stages]
        if options["block"] == "basic":
            return {"architecture": "resnet18", "model_args": {"layers": layers}}
        widths = {"cardinality": options["groups"], "base_width": options["width_per_group"]}
        return {"architecture": "resnet50", "model_args": {"layers": layers, **widths}}
