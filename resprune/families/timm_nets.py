"""timm's residual networks: `ResNet` in all its variants, `ResNetV2`, `RegNet`, `ByobNet`, `SENet`, `TResNet`.

timm is imported only where a network is built: it takes seconds. What differs between its classes is data
here: which children of a network are stem, stages and head, and which children of a block are its branch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from resprune.errors import ArchitectureError
from resprune.families import timm_index
from resprune.families.base import Family, Part, Parts, Weights, chop, named
from resprune.families.layers import leaves
from resprune.families.timm_layouts import BLOCKS, NETWORKS, REFUSED_BLOCKS
from resprune.families.torchvision_resnet import TorchvisionResNet, twin_of
from resprune.records import WHOLE, Architecture, Assumption, Claim, Preprocessing, Variants

_ARGUMENTS = {
    "act_layer",
    "aa_layer",
    "avg_down",
    "base_width",
    "block_args",
    "block_reduce_first",
    "cardinality",
    "channels",
    "down_kernel_size",
    "global_pool",
    "layers",
    "norm_layer",
    "output_stride",
    "replace_stem_pool",
    "stem_chs",
    "stem_type",
    "stem_width",
    "width_factor",
}
"""Constructor arguments taken from a file; others, such as ``checkpoint_path``, could do anything."""
_TRAINING_ARGUMENTS = re.compile(r"drop.*|zero_init_last|num_classes|in_chans|pretrained.*|features_only")


class Res2NetScales(nn.Module):
    """Middle of timm's `Bottle2neck`: groups of channels pass 3x3 convolutions one after another.

    Source: Gao et al. 2019, "Res2Net", section 3.1.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.convs, self.bns, self.relu, self.pool = block.convs, block.bns, block.relu, block.pool
        self.width, self.scale, self.is_first = block.width, block.scale, block.is_first

    def forward(self, x: Tensor) -> Tensor:
        groups = x.split(self.width, dim=1)
        passed: list[Tensor] = []
        for group, conv, bn in zip(groups, self.convs, self.bns, strict=False):
            # In a block that projects every group goes alone.
            out = group if self.is_first or not passed else passed[-1] + group
            passed.append(self.relu(bn(conv(out))))
        if self.scale > 1:
            passed.append(groups[-1] if self.pool is None else self.pool(groups[-1]))
        return torch.cat(passed, dim=1)


class TimmNets(Family):
    """Adapter of `timm.create_model`, for all names in the index."""

    name = "timm"

    def recognise(self, weights: Weights) -> Architecture | None:
        outline = _outline(weights)
        fitting = [] if outline is None else timm_index.fitting(outline)
        return None if outline is None or not fitting else self._architecture(fitting[0], outline)

    def by_name(self, claim: Claim, weights: Weights) -> Architecture | None:
        entry = timm_index.named(claim.name) if claim.library in ("", "timm") else None
        outline = None if entry is None else _outline(weights)
        if entry is None or outline is None or not (claim.arguments or entry.fits(outline)):
            return None
        return self._architecture(entry, outline, claim.arguments)

    def _architecture(
        self, entry: timm_index.Entry, outline: timm_index.Outline, arguments: Mapping[str, Any] | None = None
    ) -> Architecture:
        options: dict[str, Any] = {
            "arch": entry.name,
            "in_channels": outline.in_channels,
            "classes": outline.classes,
        }
        further = {
            key: value
            for key, value in (arguments or {}).items()
            if key != "layers" and not _TRAINING_ARGUMENTS.fullmatch(key)
        }
        if further:
            options["arguments"] = further
        counts = [len(stage) for stage in outline.stages]
        name = entry.name if tuple(counts) == entry.blocks else f"{entry.name}-{'-'.join(map(str, counts))}"
        return Architecture(self.name, name, tuple(WHOLE * count for count in counts), options)

    def build(self, architecture: Architecture) -> nn.Module:
        import timm

        options = architecture.options
        arguments = dict(options.get("arguments", {}))
        unknown = sorted(set(arguments) - _ARGUMENTS)
        if unknown or timm_index.named(options["arch"]) is None:
            what = f"the argument {unknown[0]!r} of" if unknown else "the name"
            raise ValueError(f"{what} {options['arch']!r} is none that resprune passes to timm")
        if self.depth_is_free(architecture):
            arguments["layers"] = [max(1, len(stage)) for stage in architecture.stages]
        return timm.create_model(
            options["arch"],
            num_classes=options["classes"],
            in_chans=options["in_channels"],
            **arguments,
        )

    def depth_is_free(self, architecture: Architecture) -> bool:
        entry = timm_index.named(architecture.options["arch"])
        return entry is not None and entry.depth_is_free

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        layout = NETWORKS[_class_name(network)]
        containers = [layout.stage.format(layout.first + stage) for stage in range(len(architecture.stages))]
        blocks = chop(network, containers, _part)
        return Parts(
            stem=nn.Sequential(*(network.get_submodule(path) for path in layout.stem.split())),
            blocks=_after_signed_stem(blocks) if layout.stem_is_signed else blocks,
            head=named(**{path: network.get_submodule(path) for path in layout.head.split()}),
        )

    def preprocessing(self, architecture: Architecture) -> Preprocessing:
        import timm

        config = timm.get_pretrained_cfg(architecture.options["arch"])
        assert config is not None
        _, height, width = config.input_size
        channels = architecture.options["in_channels"]
        fits = channels == len(config.mean)
        return Preprocessing(
            channels=channels,
            height=height,
            width=width,
            mean=config.mean if fits else (0.5,) * channels,
            std=config.std if fits else (0.5,) * channels,
            resize=int(min(height, width) / config.crop_pct),
            interpolation=config.interpolation,
            source=f"timm's recipe for {config.architecture}.{config.tag or 'untrained'}, assumed",
        )

    def timm_config(self, architecture: Architecture) -> dict[str, Any] | None:
        if not architecture.is_stock:
            return None
        options = architecture.options
        arguments = dict(options.get("arguments", {}))
        if self.depth_is_free(architecture):
            arguments["layers"] = [len(stage) for stage in architecture.stages]
        return {"architecture": options["arch"], "model_args": arguments}

    def torchvision_constructor(self, architecture: Architecture) -> str | None:
        twin = twin_of(architecture)
        return None if twin is None else TorchvisionResNet().torchvision_constructor(twin)

    def hugging_face_config(self, architecture: Architecture) -> dict[str, Any] | None:
        twin = twin_of(architecture)
        return None if twin is None else TorchvisionResNet().hugging_face_config(twin)

    def variants(self) -> tuple[Variants, ...]:
        groups: dict[tuple[str, bool, bool], list[str]] = {}
        for entry in timm_index.entries():
            groups.setdefault((entry.module, entry.depth_is_free, entry.readable), []).append(entry.name)
        return tuple(
            Variants(
                f"timm {module}" + ("" if free else ", of fixed depth"),
                tuple(names),
                ("timm",) if free and readable else (),
                "" if readable else "a block has no skip connection, or one that starts behind its norm",
            )
            for (module, free, readable), names in sorted(groups.items())
        )


def arch_assumption(architecture: Architecture, weights: Weights) -> tuple[Assumption, ...]:
    """Return the assumption that weights are this network's, and not those of one that looks the same."""
    outline = _outline(weights)
    fitting = [] if outline is None else timm_index.fitting(outline)
    # Another family takes the weights only where the plainest of timm's networks is the same as its own.
    taken = timm_index.named(str(architecture.options.get("arch"))) or next(iter(fitting), None)
    others = tuple(entry.name for entry in fitting if taken is not None and entry.kind != taken.kind)
    if not others:
        return ()
    meaning = "timm has networks of the same names and shapes that compute something else"
    return (Assumption("arch", architecture.name, others, meaning),)


def _outline(weights: Weights) -> timm_index.Outline | None:
    return timm_index.Outline.of({key: tensor.shape for key, tensor in weights.items()})


def _class_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}".removeprefix("timm.models.")


def _part(path: str, stage: int, block: Any) -> Part:
    kind = _class_name(block)
    if kind == "res2net.Bottle2neck":
        skip = named(downsample=block.downsample) if block.downsample is not None else named()
        ahead, behind = _chain(block, "conv1 bn1 relu"), _chain(block, "drop_block conv3 bn3 se drop_path")
        return Part(path, stage, block, skip, nn.Sequential(*ahead, Res2NetScales(block), *behind), block.relu)
    layout = BLOCKS.get(kind)
    if layout is None:
        reason = REFUSED_BLOCKS.get(kind, f"blocks of the kind {kind} are not known to be skip plus branch")
        raise ArchitectureError(reason, where=path, hint="blocks of this network cannot be removed one by one")
    shortcut = getattr(block, layout.skip)
    if shortcut is None and layout.none_is_no_skip:
        raise ArchitectureError(
            "the block has no skip connection: without its branch nothing would be left of it",
            where=path,
            hint="blocks of this network cannot be removed one by one",
        )
    skip = named()
    if shortcut is not None and not isinstance(shortcut, nn.Identity):
        skip = named(**{name: getattr(block, name) for name in (*layout.before_skip.split(), layout.skip)})
    activation = getattr(block, layout.activation) if layout.activation else nn.Identity()
    return Part(path, stage, block, skip, _chain(block, layout.branch), activation)


def _after_signed_stem(blocks: tuple[Part, ...]) -> tuple[Part, ...]:
    first, *others = blocks
    if first.branch is None or len(first.skip):
        return blocks
    return (replace(first, skip=named(identity=nn.Identity())), *others)


def _chain(block: nn.Module, names: str) -> nn.Sequential:
    """Return the layers of a block's children in a row, but for those that are switched off."""
    layers = [getattr(block, name, None) for name in names.split()]
    present = [leaf for layer in layers if layer is not None for leaf in leaves(layer)]
    return nn.Sequential(*(leaf for leaf in present if type(leaf) is not nn.Identity))
