"""Post-activation ResNets for small images: He et al. 2016, section 4.2, and what grew from it.

They differ in the names of their layers (`LINEAGES`), in the number of stages, in basic or bottleneck
blocks, and in the shortcut where width or size changes: parameter-free ("option A") or projecting ("B").
"""

from __future__ import annotations

from torch import nn

from resprune.families.base import (
    Family,
    Part,
    Parts,
    Weights,
    block_counts,
    chop,
    chop_flat,
    named,
    other_values,
    outputs_of,
    recipe_for,
)
from resprune.families.cifar_networks import EXPANSION, LINEAGES, CifarBlock, CifarResNet, Names
from resprune.records import WHOLE, Architecture, Assumption, Preprocessing, Variants


class CifarResNets(Family):
    """Adapter of `CifarResNet`."""

    name = "cifar-resnet"

    def recognise(self, weights: Weights) -> Architecture | None:
        return next((found for key in LINEAGES if (found := _recognise(self.name, key, weights))), None)

    def build(self, architecture: Architecture) -> nn.Module:
        # Configs of version 0.1 lack the options that have a default here.
        options, widths = architecture.options, list(architecture.options["widths"])
        bottleneck = {"basic": False, "bottleneck": True}[options.get("block", "basic")]
        return CifarResNet(
            LINEAGES[options.get("names", "akamaster")],
            [max(1, len(stage)) for stage in architecture.stages],
            [EXPANSION * width for width in widths] if bottleneck else widths,
            stem=options.get("stem", widths[0]),
            in_channels=options["in_channels"],
            classes=options["classes"],
            bottleneck=bottleneck,
            shortcut="B" if options["shortcut"] == "B" else options.get("padding", "centred"),
        )

    def depth_is_free(self, architecture: Architecture) -> bool:
        return True

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, CifarResNet)
        names = network.names
        if names.is_flat:
            blocks = chop_flat(network, names.container, architecture.stages, self._part)
        else:
            blocks = chop(network, network.stages, self._part)
        head = named(
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            **{names.classifier: network.get_submodule(names.classifier)},
        )
        return Parts(nn.Sequential(*map(network.get_submodule, names.stem), nn.ReLU()), blocks, head)

    def _part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, CifarBlock)
        shortcut = block.get_submodule(block.shortcut_name)
        skip = named(**{block.shortcut_name: shortcut}) if list(shortcut.children()) else named()
        branch = nn.Sequential()
        for conv, norm in block.layers:
            branch.extend([nn.ReLU()] if len(branch) else [])
            branch.extend([block.get_submodule(conv), block.get_submodule(norm)])
        return Part(path, stage, block, skip, branch, nn.ReLU())

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        options = architecture.options
        source, mean, std = _recipe(
            options.get("names", "akamaster"), len(architecture.stages), options["classes"]
        )
        return recipe_for(options["in_channels"], 32, mean, std, source=f"the recipe of {source}")

    def assumptions(self, architecture: Architecture) -> tuple[Assumption, ...]:
        options = architecture.options
        if options["shortcut"] == "B":
            return ()
        value = options.get("padding", "centred")
        others = other_values(value, ("centred", "trailing"))
        meaning = "where option-A shortcuts put their zero channels: around the others, or behind them"
        return (Assumption("padding", value, others, meaning),)

    def variants(self) -> tuple[Variants, ...]:
        authors = ("akamaster (Y. Idelbayev)", "kuangliu", "chenyaofo", "open_lth", "weiaicunzai")
        return (Variants("CIFAR ResNets, named as their authors name them", authors),)


def _recognise(family: str, key: str, weights: Weights) -> Architecture | None:
    """Return the architecture of one lineage, or None where the weights are not of it."""
    names = LINEAGES[key]
    counts = block_counts(weights, names.block_keys, names.pattern, names.first)
    needed = {f"{path}.weight" for path in (*names.stem, names.classifier)}
    if counts is None or not needed <= weights.keys():
        return None
    stem = weights[f"{names.stem[0]}.weight"].shape
    if len(stem) != 4 or stem[2:] != (3, 3):
        return None
    if names.is_flat:
        counts = _stage_counts(weights, names, counts[0])
    firsts = [
        f"{path}.{sum(counts[:stage]) if names.is_flat else 0}"
        for stage, path in enumerate(names.containers(len(counts)))
    ]
    block = "bottleneck" if f"{firsts[0]}.{names.layers[2][0]}.weight" in weights else "basic"
    widths = [outputs_of(weights, f"{first}.{names.layers[1][0]}.weight") for first in firsts]
    classes = outputs_of(weights, f"{names.classifier}.weight")
    if not all(widths) or not all(stem) or not classes:
        return None
    if key == "chenyaofo" and widths == [64, 128, 256, 512]:  # torchvision's own, edited
        return None
    if "norm.weight" in weights:  # a norm before the classifier: the paper's pre-activation network
        return None
    options = {
        "names": key,
        "block": block,
        "stem": stem[0],
        "widths": widths,
        "in_channels": stem[1],
        "classes": classes,
        "shortcut": "B" if any(f".{names.shortcut}." in name for name in weights) else "A",
    }
    if options["shortcut"] == "A":
        options["padding"] = "centred"
    depth = (3 if block == "bottleneck" else 2) * sum(counts) + 2
    return Architecture(family, _name(key, depth, options), tuple(WHOLE * count for count in counts), options)


def _stage_counts(weights: Weights, names: Names, blocks: int) -> list[int]:
    """Tell the stages of a flat sequence apart: one begins where a block projects or has another width."""
    counts, width = [0], 0
    for position in range(blocks):
        path = f"{names.container}.{position}"
        out = outputs_of(weights, f"{path}.{names.layers[1][0]}.weight")
        if position and (out != width or f"{path}.{names.shortcut}.0.weight" in weights):
            counts.append(0)
        counts[-1] += 1
        width = out
    return counts


def _name(key: str, depth: int, options: dict[str, object]) -> str:
    """Return the lineage's own name for a network."""
    if key == "open_lth":
        return f"cifar_resnet_{depth}" + (f"_{options['stem']}" if options["stem"] != 16 else "")
    if key == "chenyaofo" and options["classes"] in (10, 100):
        return f"cifar{options['classes']}_resnet{depth}"
    return f"resnet{depth}"


def _recipe(key: str, stages: int, classes: int) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Return a lineage's name with its mean and deviation."""
    if key == "akamaster" and stages < 4:
        return "pytorch_resnet_cifar10", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if key == "weiaicunzai":
        return "weiaicunzai's pytorch-cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    if key == "chenyaofo" and classes == 100:
        return "chenyaofo's for CIFAR-100", (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)
    origin = {"akamaster": "kuangliu's pytorch-cifar", "chenyaofo": "chenyaofo's for CIFAR-10"}
    return origin.get(key, key), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
