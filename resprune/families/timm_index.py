"""Which of timm's networks a state dict's names and shapes fit, at any depth; timm itself is not imported.

`timm_index.json` holds an outline of every network of the modules in `MODULES`. `scripts/index_timm.py`
wrote it from the installed timm, with the functions of this file, so that both sides cut alike.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from torch import Size

MODULES = ("resnet", "resnetv2", "regnet", "byobnet", "senet", "sknet", "res2net", "resnest", "tresnet")
"""timm's modules of residual networks."""

BLOCK = re.compile(r"(?:body\.)?(?:layer|stages\.|s)(\d+)\.(?:blocks\.)?b?(\d+)\.(.*)")
"""A parameter of a block: its stage, its position, its name within the block."""

_STEMS = {
    "conv1.weight",
    "conv1.0.weight",
    "stem.weight",
    "stem.conv.weight",
    "stem.conv1.weight",
    "stem.conv1.conv.weight",
    "stem.conv.conv.weight",
    "layer0.conv1.weight",
    "body.conv1.conv.weight",
}
_CLASSIFIERS = ("fc", "head.fc", "last_linear", "head.proj", "head")
_SPACE_TO_DEPTH = "body.conv1.conv.weight"  # TResNet's stem sees 4 x 4 pixels as channels

Shapes = Mapping[str, Size | tuple[int, ...]]


@dataclass(frozen=True)
class Outline:
    """A state dict's names and shapes, cut into what is outside the blocks, and the blocks of every stage.

    Attributes:
        outer: Digest of stem and head, but for the numbers of input channels and classes.
        stages: Digests of every stage's blocks.
        in_channels, classes: What was left out.
    """

    outer: str
    stages: tuple[tuple[str, ...], ...]
    in_channels: int
    classes: int

    @classmethod
    def of(cls, shapes: Shapes) -> Outline | None:
        """Return the outline of names and shapes, or None where they have no stem, blocks and classifier."""
        outer: dict[str, tuple[int, ...]] = {}
        blocks: dict[tuple[int, int], dict[str, tuple[int, ...]]] = {}
        in_channels = classes = 0
        for key, size in shapes.items():
            shape = tuple(size)
            if key.endswith("num_batches_tracked"):
                continue
            match = BLOCK.fullmatch(key)
            if match is not None:
                blocks.setdefault((int(match[1]), int(match[2])), {})[match[3]] = shape
                continue
            if key in _STEMS and len(shape) == 4:
                in_channels, shape = shape[1], (shape[0], 0, *shape[2:])
            path, _, name = key.rpartition(".")
            if path in _CLASSIFIERS and name in ("weight", "bias") and shape:
                classes, shape = shape[0], (0, *shape[1:])
            outer[key] = shape
        if _SPACE_TO_DEPTH in outer:
            in_channels //= 16
        stages = _runs(blocks)
        if stages is None or not in_channels or not classes:
            return None
        return cls(digest(sorted(outer.items())), stages, in_channels, classes)


@dataclass(frozen=True)
class Entry:
    """One network of timm.

    Attributes:
        name: Takes it from `timm.create_model`.
        module: Of `MODULES`.
        outer: As in `Outline`.
        stages: Digests of every stage's blocks; runs of equal ones are written once, see `fits`.
        blocks: Number of blocks of every stage.
        kind: Digest of what the network computes, whatever its depth: strides, activations, pools, ...
        depth_is_free: Whether the constructor takes any number of blocks.
        readable: Whether every block is skip plus branch; the others are known so that they can be refused.
    """

    name: str
    module: str
    outer: str
    stages: tuple[tuple[str, ...], ...]
    blocks: tuple[int, ...]
    kind: str
    depth_is_free: bool
    readable: bool

    def fits(self, outline: Outline) -> bool:
        """Whether the weights can be those of this network, at its own depth or another that it can have."""
        if self.outer != outline.outer or len(self.stages) != len(outline.stages):
            return False
        if not self.depth_is_free:
            return self.stages == outline.stages
        pairs = zip(self.stages, outline.stages, strict=True)
        return all(
            known[0] == found[0] and set(found[1:]) <= set(known[1:] or found[1:2]) for known, found in pairs
        )


@cache
def entries() -> tuple[Entry, ...]:
    """Return the index, plainer names first."""
    text = files("resprune.families").joinpath("timm_index.json").read_text(encoding="utf-8")
    found = []
    for row in json.loads(text)["networks"]:
        stages = tuple(tuple(stage.split()) for stage in row["stages"])
        blocks = tuple(row["blocks"])
        # A run is written as its first two digests.
        full = tuple(
            stage if len(stage) != 2 else (stage[0], *stage[1:] * (count - 1))
            for stage, count in zip(stages, blocks, strict=True)
        )
        name, module, outer = row["name"], row["module"], row["outer"]
        found.append(Entry(name, module, outer, full, blocks, row["kind"], row["free"], row["readable"]))
    return tuple(sorted(found, key=lambda entry: (len(entry.name), entry.name)))


def fitting(outline: Outline) -> list[Entry]:
    """Return the networks that the weights fit, one for each that computes something else.

    Those of exactly this depth go first, then plainer names.
    """
    counts = tuple(len(stage) for stage in outline.stages)
    found = [entry for entry in entries() if entry.fits(outline)]
    kinds: dict[str, Entry] = {}
    for entry in sorted(found, key=lambda entry: entry.blocks != counts):
        kinds.setdefault(entry.kind, entry)
    return list(kinds.values())


def named(name: str) -> Entry | None:
    """Return the network of a name, with or without timm's ``.tag`` of pretrained weights."""
    plain = name.partition(".")[0]
    return next((entry for entry in entries() if entry.name == plain), None)


def digest(content: Iterable[object]) -> str:
    """Return a short digest of what has a stable `repr`."""
    return hashlib.blake2b(repr(list(content)).encode(), digest_size=6).hexdigest()


def _runs(blocks: Mapping[tuple[int, int], dict[str, tuple[int, ...]]]) -> tuple[tuple[str, ...], ...] | None:
    """Return the digests of the blocks by stage, or None where the numbering has holes."""
    stages: dict[int, dict[int, str]] = {}
    for (stage, index), shapes in blocks.items():
        stages.setdefault(stage, {})[index] = digest(sorted(shapes.items()))
    if not stages or sorted(stages) != list(range(min(stages), min(stages) + len(stages))):
        return None
    if any(sorted(s) != list(range(min(s), min(s) + len(s))) or min(s) > 1 for s in stages.values()):
        return None
    return tuple(tuple(stages[stage][index] for index in sorted(stages[stage])) for stage in sorted(stages))
