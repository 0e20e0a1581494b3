"""torchvision's `ResNet`: basic and bottleneck blocks, ResNeXt, wide; plain timm reads the same names.

Also as people edit it: the stride of a bottleneck in its first convolution (the original version 1), a 3x3
stem without max pooling for CIFAR's small images, other numbers of input channels.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from resprune.families.base import (
    Family,
    Part,
    Parts,
    Weights,
    block_counts,
    chop,
    named,
    other_values,
    outputs_of,
    recipe_for,
)
from resprune.records import WHOLE, Architecture, Assumption, Claim, Preprocessing, Variants

_BLOCK_KEYS = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample"}
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
_WIDTHS = [64, 128, 256, 512]
_STRIDE_IN_FIRST = {"3x3": False, "1x1": True}
_HAS_POOL = {"max": True, "none": False}
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
_OUTSIDE = {"conv1.weight", "bn1.running_mean", "fc.weight"}  # timm's GroupNorm networks lack the second


class TorchvisionResNet(Family):
    """Adapter of `torchvision.models.ResNet`."""

    name = "torchvision-resnet"

    def recognise(self, weights: Weights) -> Architecture | None:
        counts = block_counts(weights, _BLOCK_KEYS)
        if counts is None or len(counts) != len(_STAGES) or not weights.keys() >= _OUTSIDE:
            return None
        if "norm.weight" in weights:  # before the classifier: the paper's pre-activation network
            return None
        stem, middle = weights["conv1.weight"].shape, weights.get("layer1.0.conv2.weight")
        classes = outputs_of(weights, "fc.weight")
        if len(stem) != 4 or stem[0] != _WIDTHS[0] or stem[2:] not in ((7, 7), (3, 3)) or not stem[1]:
            return None
        if middle is None or middle.ndim != 4 or not middle.shape[1] or not classes:
            return None
        block = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
        last = "conv3" if block == "bottleneck" else "conv2"
        widths = [outputs_of(weights, f"{stage}.0.{last}.weight") for stage in _STAGES]
        if widths != [_BLOCKS[block].expansion * width for width in _WIDTHS]:
            return None
        groups = middle.shape[0] // middle.shape[1]
        width = middle.shape[0] // max(1, groups)
        options = {
            "block": block,
            "groups": groups,
            "width_per_group": width,
            "in_channels": stem[1],
            "classes": classes,
            "stem_kernel": stem[2],
            "stem_stride": 2 if stem[2] == 7 else 1,
            "pool": "max" if stem[2] == 7 else "none",
        }
        if block == "bottleneck":
            options["stride"] = "3x3"
        stages = tuple(WHOLE * count for count in counts)
        fallback = f"resnet-{block}-{'-'.join(map(str, counts))}"
        return Architecture(
            self.name, _NAMES.get((block, groups, width, tuple(counts)), fallback), stages, options
        )

    def by_name(self, claim: Claim, weights: Weights) -> Architecture | None:
        if claim.library == "timm":  # timm's own family knows what a name means there
            return None
        if claim.library != "huggingface":
            return super().by_name(claim, weights)
        found, stride = self.recognise(weights), claim.arguments.get("stride")
        if found is None or stride not in _STRIDE_IN_FIRST or "stride" not in found.options:
            return found
        return self.assume(found, "stride", stride)

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        network = ResNet(
            _BLOCKS[options["block"]],
            [max(1, len(stage)) for stage in architecture.stages],
            num_classes=options["classes"],
            groups=options["groups"],
            width_per_group=options["width_per_group"],
        )
        # Configs of version 0.1 lack the options that have a default here.
        channels, kernel = options.get("in_channels", 3), options.get("stem_kernel", 7)
        stride = options.get("stem_stride", 2)
        network.conv1 = nn.Conv2d(channels, _WIDTHS[0], kernel, stride, padding=kernel // 2, bias=False)
        if not _HAS_POOL[options.get("pool", "max")]:
            network.set_submodule("maxpool", nn.Identity())
        if _STRIDE_IN_FIRST[options.get("stride", "3x3")]:
            for block in network.modules():
                if isinstance(block, Bottleneck):
                    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        return network

    def depth_is_free(self, architecture: Architecture) -> bool:
        return True

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
        channels = architecture.options.get("in_channels", 3)
        if architecture.options.get("stem_kernel", 7) == 3:
            mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
            return recipe_for(channels, 32, mean, std, source="CIFAR-10's mean and deviation")
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        source = "torchvision's ImageNet recipe"
        return recipe_for(channels, 224, mean, std, resize=256, source=source)

    def assumptions(self, architecture: Architecture) -> tuple[Assumption, ...]:
        options = architecture.options
        meanings = {
            "stride": "convolution of a bottleneck that strides; 3x3 is version 1.5, torchvision's and timm's",
            "stem_stride": "stride of the stem's convolution",
            "pool": "max pooling after the stem",
        }
        values = {"stride": ("3x3", "1x1"), "stem_stride": ("1", "2"), "pool": ("max", "none")}
        return tuple(
            Assumption(name, str(options[name]), other_values(options[name], values[name]), meaning)
            for name, meaning in meanings.items()
            if name in options
        )

    def timm_config(self, architecture: Architecture) -> dict[str, Any] | None:
        options = architecture.options
        if not _has_stock_stem(architecture) or options.get("stride", "3x3") != "3x3":
            return None
        arguments: dict[str, Any] = {"layers": [len(stage) for stage in architecture.stages]}
        if options.get("in_channels", 3) != 3:
            arguments["in_chans"] = options["in_channels"]
        if options["block"] == "basic":
            return {"architecture": "resnet18", "model_args": arguments}
        arguments |= {"cardinality": options["groups"], "base_width": options["width_per_group"]}
        return {"architecture": "resnet50", "model_args": arguments}

    def torchvision_constructor(self, architecture: Architecture) -> str | None:
        options = architecture.options
        if not _has_stock_stem(architecture) or options.get("stride", "3x3") != "3x3":
            return None
        if options.get("in_channels", 3) != 3:
            return None
        block = _BLOCKS[options["block"]].__name__
        counts = [len(stage) for stage in architecture.stages]
        arguments = f"torchvision.models.resnet.{block}, {counts}, num_classes={options['classes']}"
        if (options["groups"], options["width_per_group"]) != (1, 64):
            arguments += f", groups={options['groups']}, width_per_group={options['width_per_group']}"
        return f"torchvision.models.ResNet({arguments})"

    def hugging_face_config(self, architecture: Architecture) -> dict[str, Any] | None:
        options = architecture.options
        if not _has_stock_stem(architecture) or (options["groups"], options["width_per_group"]) != (1, 64):
            return None
        expansion = _BLOCKS[options["block"]].expansion
        return {
            "model_type": "resnet",
            "architectures": ["ResNetForImageClassification"],
            "num_channels": options.get("in_channels", 3),
            "embedding_size": _WIDTHS[0],
            "hidden_sizes": [expansion * width for width in _WIDTHS],
            "depths": [len(stage) for stage in architecture.stages],
            "layer_type": options["block"],
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": _STRIDE_IN_FIRST[options.get("stride", "3x3")],
        }

    def variants(self) -> tuple[Variants, ...]:
        return (
            Variants(
                "torchvision ResNet, timm's plain ones",
                tuple(_NAMES.values()),
                ("timm", "torchvision"),
            ),
            Variants("Hugging Face ResNetForImageClassification", (), ("timm", "torchvision")),
            Variants("the same with the stride in the 1x1 convolution (v1), or a stem for small images", ()),
        )


def _has_stock_stem(architecture: Architecture) -> bool:
    """Whether every stage is whole, and the stem is a strided 7x7 convolution and max pooling."""
    options = architecture.options
    stem = options.get("stem_kernel", 7), options.get("stem_stride", 2), options.get("pool", "max")
    return architecture.is_stock and stem == (7, 2, "max")


def twin_of(architecture: Architecture) -> Architecture | None:
    """Return torchvision's architecture of a network of timm's that is the same under another constructor."""
    options = architecture.options
    kinds = {name: kind for kind, name in _NAMES.items()}
    if options["arch"] not in kinds or options.get("arguments"):
        return None
    block, groups, width, _ = kinds[options["arch"]]
    own = {"block": block, "groups": groups, "width_per_group": width}
    own |= {name: options[name] for name in ("in_channels", "classes")}
    return Architecture(TorchvisionResNet.name, architecture.name, architecture.stages, own)
