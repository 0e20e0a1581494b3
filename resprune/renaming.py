"""Names in a state dict become a network's own: prefixes go, other libraries' names are translated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resprune.errors import ArchitectureError, CheckpointError, printable

_ANYWHERE = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch's own wrappers insert in names, at any depth."""
_NETWORK = re.compile(r"(?:\w+_)?(?:model|net|network|backbone|encoder|resnet|cnn|student|module)\d?")
"""First parts of names below which training scripts keep a network."""
_AVERAGED = re.compile(r"(?:\w+_)?(?:ema|swa|teacher|averaged)(?:_\w+)?")
_COUNTERS = ("n_averaged", "steps")
"""Buffers of torch's and OpenMMLab's averaged models."""
_CLASSIFIERS = ("fc", "linear")
_PROFILED = ("total_ops", "total_params")
"""Buffers that the profiler thop leaves in every layer."""

_HUGGING_FACE = "embedder.embedder.convolution.weight"
_LAYERS = {"convolution": "conv", "normalization": "bn"}


@dataclass(frozen=True, eq=False)
class Group:
    """The tensors of one network in a state dict, under names of its own.

    Attributes:
        prefix: What set it apart from others in the same state dict; empty where it is alone.
        averaged: Whether the prefix says that it is an average of the training's networks.
        weights: Names without prefixes, native where another library's were recognised.
        notes: What was done.
    """

    prefix: str
    averaged: bool
    weights: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def convolutions(self) -> int:
        """Number of tensors with the four axes of a convolution's weight."""
        return _convolutions(self.weights)


def groups(weights: Mapping[str, Tensor], name: str) -> list[Group]:
    """Return the networks in a state dict, the largest first.

    Raises:
        ArchitectureError: where two tensors end under one name, or another library's network has no
            classifier.
    """
    notes: list[str] = []
    weights = _strip(_without_extras(weights, notes), name, notes)
    if _is_foreign(weights):
        return [Group("", False, _translate(weights, name, notes), tuple(notes))]
    apart = _apart(weights)
    if not apart:
        return [Group("", False, weights, tuple(notes))] if weights else []
    left = [key for key in weights if key.partition(".")[0] not in apart]
    if len(apart) == 1 and {key.partition(".")[0] for key in left} <= {*_CLASSIFIERS} and len(left) in (1, 2):
        return [_with_classifier(weights, apart[0], left, name, notes)]
    found = [_group(weights, first, left, name, notes) for first in apart]
    own = {key: weights[key] for key in left}
    if all(group.averaged for group in found) and _convolutions(own) >= found[0].convolutions:
        others = f"dropped beside names without a prefix: {some(f'{first}.' for first in apart)}"
        return [Group("", False, own, (*notes, others)), *found]
    return found


def _with_classifier(
    weights: Mapping[str, Tensor], first: str, classifier: list[str], name: str, notes: list[str]
) -> Group:
    """Return a network of which all but the classifier lies below a prefix, and nothing else anywhere."""
    group = _group(weights, first, [], name, notes)
    if any(key.partition(".")[0] in _CLASSIFIERS for key in group.weights):
        return _group(weights, first, classifier, name, notes)
    taken = {key: weights[key] for key in classifier}
    note = f"took the classifier from beside {printable(first)}.: {some(classifier)}"
    return Group(group.prefix, group.averaged, {**group.weights, **taken}, (*group.notes, note))


def _group(weights: Mapping[str, Tensor], first: str, left: list[str], name: str, notes: list[str]) -> Group:
    """Return what lies below one prefix of several."""
    prefix = f"{first}."
    own = [*notes, f"took what is below {printable(prefix)}"]
    own += [f"dropped beside {printable(prefix)}: {some(left)}"] if left else []
    inner = {key.removeprefix(prefix): t for key, t in weights.items() if key.startswith(prefix)}
    inner = _strip(_without_extras(inner, own), name, own)
    if _is_foreign(inner):
        inner = _translate(inner, name, own)
    return Group(prefix, _AVERAGED.fullmatch(first) is not None, inner, tuple(own))


def _apart(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the first parts of names below which networks lie, where everything else is no network."""
    counts: dict[str, int] = {}
    for key, tensor in weights.items():
        if tensor.ndim == 4:
            first, dot, _ = key.partition(".")
            counts[first if dot else ""] = counts.get(first if dot else "", 0) + 1
    named = [first for first in counts if _NETWORK.fullmatch(first) or _AVERAGED.fullmatch(first)]
    # A stem or a stage of the network's own, at the top: nothing lies apart.
    if not named or sum(counts[first] for first in named) < sum(counts.values()) / 2:
        return []
    return sorted(named, key=lambda first: -counts[first])


def _without_extras(weights: Mapping[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """Drop counters and profilers' buffers, which no network has."""
    extras = [key for key in weights if key in _COUNTERS or key.rpartition(".")[2] in _PROFILED]
    if extras:
        notes.append(f"dropped, not the network's: {some(extras)}")
    return {key: tensor for key, tensor in weights.items() if key not in set(extras)}


def _strip(weights: dict[str, Tensor], name: str, notes: list[str]) -> dict[str, Tensor]:
    """Take off prefixes that all names share, and what torch's wrappers insert."""
    prefix = ""
    while first := _shared(weights):
        prefix += first
        weights = {key.removeprefix(first): tensor for key, tensor in weights.items()}
    if prefix:
        notes.append(f"stripped the prefix {printable(prefix)}")
    inserted = [part for part in _ANYWHERE if any(f".{part}" in f".{key}" for key in weights)]
    if not inserted:
        return weights
    notes.append(f"cut {', '.join(inserted)} out of names")
    return _strip(_renamed(weights, {key: _cut(key) for key in weights}, name), name, notes)


def _shared(weights: Mapping[str, Tensor]) -> str:
    """Return the first part that all names share, where what is below can be a network."""
    firsts = {key.partition(".")[0] if "." in key else "" for key in weights}
    first = firsts.pop() if len(firsts) == 1 else ""
    below = {key.split(".")[1] for key in weights} if first else set()
    known = f"{first}." in _ANYWHERE or _NETWORK.fullmatch(first) or _AVERAGED.fullmatch(first)
    is_layer = first.isdigit() or not _convolutions(weights) or len(below) < 3
    return f"{first}." if first and (known or not is_layer) else ""


def _cut(key: str) -> str:
    return ".".join(part for part in key.split(".") if f"{part}." not in _ANYWHERE)


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str], where: str) -> dict[str, Tensor]:
    """Give tensors new names; two that end under one name have to be the same."""
    result: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for old, tensor in weights.items():
        new = names[old]
        if new in result and not _same(result[new], tensor):
            raise ArchitectureError(
                f"{sources[new]} and {old} are different weights of one name, {new}",
                where=where,
                hint="save the state dict of one network alone",
            )
        result[new], sources[new] = tensor, old
    return result


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or "meta" in (one.device.type, other.device.type):
        return one.shape == other.shape
    return one.layout == other.layout == torch.strided and torch.equal(one, other)


def _is_foreign(weights: Mapping[str, Tensor]) -> bool:
    hugging_face = any(key.removeprefix("resnet.") == _HUGGING_FACE for key in weights)
    return hugging_face or {"backbone.conv1.weight", "head.fc.weight"} <= weights.keys()


def _translate(weights: Mapping[str, Tensor], where: str, notes: list[str]) -> dict[str, Tensor]:
    """Give the tensors of Hugging Face's and OpenMMLab's ResNets the names that torchvision has."""
    if "head.fc.weight" in weights:
        notes.append("renamed from OpenMMLab's names")
        recipe = [key for key in weights if key.startswith("data_preprocessor.")]
        notes += [f"dropped beside backbone. and head.: {some(recipe)}"] if recipe else []
        names = {key: re.sub(r"^(backbone|head)\.", "", key) for key in weights if key not in recipe}
        weights = {key: weights[key] for key in names}
        return _renamed(weights, names, where)
    if "classifier.1.weight" not in weights:
        raise CheckpointError(
            "a Hugging Face ResNet without its classifier (ResNetModel)",
            where=where,
            hint="use a checkpoint of ResNetForImageClassification",
        )
    notes.append("renamed from Hugging Face's names")
    return _renamed(weights, {key: _from_hugging_face(key) for key in weights}, where)


def _from_hugging_face(key: str) -> str:
    """Return torchvision's name of a tensor, or the name itself where it is none of the network's."""
    inner = key.removeprefix("resnet.")
    if match := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", inner):
        return f"{_LAYERS[match[1]]}1.{match[2]}"
    if match := re.fullmatch(r"classifier\.1\.(\w+)", inner):
        return f"fc.{match[1]}"
    block = r"encoder\.stages\.(\d+)\.layers\.(\d+)"
    layer = r"(convolution|normalization)\.(\w+)"
    if match := re.fullmatch(rf"{block}\.shortcut\.{layer}", inner):
        place = 0 if match[3] == "convolution" else 1
        return f"layer{int(match[1]) + 1}.{match[2]}.downsample.{place}.{match[4]}"
    if match := re.fullmatch(rf"{block}\.layer\.(\d+)\.{layer}", inner):
        return f"layer{int(match[1]) + 1}.{match[2]}.{_LAYERS[match[4]]}{int(match[3]) + 1}.{match[5]}"
    return key


def to_hugging_face(key: str) -> str:
    """Return Hugging Face's name of a tensor of torchvision's ResNet; `_from_hugging_face` leads back."""
    names = {short: long for long, short in _LAYERS.items()}
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", key):
        return f"resnet.embedder.embedder.{names[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"fc\.(\w+)", key):
        return f"classifier.1.{match[1]}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.downsample\.([01])\.(\w+)", key):
        layer = list(_LAYERS)[int(match[3])]
        return f"resnet.encoder.stages.{int(match[1]) - 1}.layers.{match[2]}.shortcut.{layer}.{match[4]}"
    if match := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv|bn)(\d)\.(\w+)", key):
        place = f"resnet.encoder.stages.{int(match[1]) - 1}.layers.{match[2]}.layer.{int(match[4]) - 1}"
        return f"{place}.{names[match[3]]}.{match[5]}"
    raise ValueError(f"{key} is no tensor of torchvision's ResNet")


def _convolutions(weights: Mapping[str, Tensor]) -> int:
    return sum(tensor.ndim == 4 for tensor in weights.values())


def some(names: Iterable[object]) -> str:
    """List the first few; what a file calls its contents may hold anything."""
    texts = [printable(str(name)) for name in names]
    return ", ".join(texts[:6]) + (" ..." if len(texts) > 6 else "") or "none"
