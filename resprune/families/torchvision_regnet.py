"""torchvision's `RegNet`: the X and, with squeeze-and-excitation, the Y networks."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision.models.regnet import BlockParams, RegNet, ResBottleneckBlock, SimpleStemIN

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
from resprune.records import WHOLE, Architecture, Preprocessing, Variants

_PATTERN = (
    r"trunk_output\.block(?P<stage>[0-9]{1,4})\.block(?P=stage)-(?P<block>[0-9]{1,4})\.(?P<child>[^.]+)\."
)
_STRIDE = 2
_SE_RATIO = 0.25
_NAMES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((1, 2, 7, 12), (32, 64, 160, 400)): "regnet_x_400mf",
    ((1, 3, 7, 5), (64, 128, 288, 672)): "regnet_x_800mf",
    ((2, 4, 10, 2), (72, 168, 408, 912)): "regnet_x_1_6gf",
    ((2, 6, 15, 2), (96, 192, 432, 1008)): "regnet_x_3_2gf",
    ((2, 5, 15, 1), (80, 240, 720, 1920)): "regnet_x_8gf",
    ((2, 6, 13, 1), (256, 512, 896, 2048)): "regnet_x_16gf",
    ((2, 7, 13, 1), (336, 672, 1344, 2520)): "regnet_x_32gf",
    ((1, 3, 6, 6), (48, 104, 208, 440)): "regnet_y_400mf",
    ((1, 3, 8, 2), (64, 144, 320, 784)): "regnet_y_800mf",
    ((2, 6, 17, 2), (48, 120, 336, 888)): "regnet_y_1_6gf",
    ((2, 5, 13, 1), (72, 216, 576, 1512)): "regnet_y_3_2gf",
    ((2, 4, 10, 1), (224, 448, 896, 2016)): "regnet_y_8gf",
    ((2, 4, 11, 1), (224, 448, 1232, 3024)): "regnet_y_16gf",
    ((2, 5, 12, 1), (232, 696, 1392, 3712)): "regnet_y_32gf",
    ((2, 7, 17, 1), (528, 1056, 2904, 7392)): "regnet_y_128gf",
}


class TorchvisionRegNet(Family):
    """Adapter of `torchvision.models.RegNet`, with free depths and widths."""

    name = "torchvision-regnet"

    def recognise(self, weights: Weights) -> Architecture | None:
        counts = block_counts(weights, {"proj", "f"}, _PATTERN)
        if counts is None or not {"stem.0.weight", "fc.weight"} <= weights.keys():
            return None
        firsts = [f"trunk_output.block{stage + 1}.block{stage + 1}-0" for stage in range(len(counts))]
        grouped = [weights.get(f"{first}.f.b.0.weight") for first in firsts]
        shapes = [shape.shape for shape in grouped if shape is not None and shape.ndim == 4]
        stem, classes = weights["stem.0.weight"].shape, outputs_of(weights, "fc.weight")
        widths = [outputs_of(weights, f"{first}.f.c.0.weight") for first in firsts]
        if len(stem) != 4 or stem[2:] != (3, 3) or not all(stem) or not classes or not all(widths):
            return None
        if len(shapes) != len(firsts) or not all(all(shape) for shape in shapes):
            return None
        options = {
            "stem": stem[0],
            "widths": widths,
            "group_widths": [shape[1] for shape in shapes],
            "bottleneck_multipliers": [shape[0] / width for shape, width in zip(shapes, widths, strict=True)],
            "se_ratio": _se_ratio(weights, firsts[0], stem[0]),
            "in_channels": stem[1],
            "classes": classes,
        }
        kind = "x" if options["se_ratio"] is None else "y"
        name = _NAMES.get((tuple(counts), tuple(widths)), "")
        if not name.startswith(f"regnet_{kind}"):
            name = f"regnet_{kind}-{'-'.join(map(str, counts))}"
        return Architecture(self.name, name, tuple(WHOLE * count for count in counts), options)

    def build(self, architecture: Architecture) -> nn.Module:
        options = architecture.options
        params = BlockParams(
            [max(1, len(stage)) for stage in architecture.stages],
            list(options["widths"]),
            list(options["group_widths"]),
            list(options["bottleneck_multipliers"]),
            [_STRIDE] * len(architecture.stages),
            options["se_ratio"],
        )
        return RegNet(
            params,
            num_classes=options["classes"],
            stem_width=options["stem"],
            stem_type=_stem_for(options["in_channels"]),
        )

    def depth_is_free(self, architecture: Architecture) -> bool:
        return True

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, RegNet)
        containers = [f"trunk_output.{name}" for name, _ in network.trunk_output.named_children()]
        head = named(avgpool=network.avgpool, flatten=nn.Flatten(), fc=network.fc)
        return Parts(nn.Sequential(network.stem), chop(network, containers, self._part), head)

    def _part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, ResBottleneckBlock)
        skip = named() if block.proj is None else named(proj=block.proj)
        branch = nn.Sequential()
        for layer in block.f:
            branch.extend(layer if isinstance(layer, nn.Sequential) else [layer])
        return Part(path, stage, block, skip, branch, block.activation)

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        source = "torchvision's ImageNet recipe"
        return recipe_for(architecture.options["in_channels"], 224, mean, std, resize=256, source=source)

    def torchvision_constructor(self, architecture: Architecture) -> str | None:
        options = architecture.options
        if not architecture.is_stock or options["in_channels"] != 3:
            return None
        counts = [len(stage) for stage in architecture.stages]
        params = (
            f"depths={counts}, widths={list(options['widths'])}, group_widths={list(options['group_widths'])},"
            f" bottleneck_multipliers={list(options['bottleneck_multipliers'])},"
            f" strides={[_STRIDE] * len(counts)}, se_ratio={options['se_ratio']}"
        )
        return (
            f"torchvision.models.RegNet(torchvision.models.regnet.BlockParams({params}),"
            f" num_classes={options['classes']}, stem_width={options['stem']})"
        )

    def variants(self) -> tuple[Variants, ...]:
        return (Variants("torchvision RegNet", tuple(_NAMES.values()), ("torchvision",)),)


def _se_ratio(weights: Weights, first: str, in_channels: int) -> float | None:
    """Return the ratio of squeezed channels to the block's input, None without squeeze-and-excitation."""
    squeezed = outputs_of(weights, f"{first}.f.se.fc1.weight")
    if not squeezed:
        return None
    # Rounded to whole channels, the exact ratio cannot be told; every published network has a quarter.
    return _SE_RATIO if squeezed == round(_SE_RATIO * in_channels) else squeezed / in_channels


def _stem_for(in_channels: int) -> Callable[..., nn.Module]:
    """Return torchvision's stem for other images than those of three channels, which `RegNet` fixes."""

    def stem(width_in: int, *arguments: object) -> nn.Module:
        return SimpleStemIN(in_channels, *arguments)  # pyright: ignore[reportArgumentType]

    return stem
