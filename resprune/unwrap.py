"""What training programs save becomes one state dict: wrappers, averaged weights, and what they say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from resprune.errors import CheckpointError, UsageError, printable
from resprune.records import Claim, Reading
from resprune.renaming import Group, groups, some

_OWN = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "net_state_dict",
    "network_state_dict",
    "student",
    "params",
    "weights",
    "shadow",
)
_AVERAGED = (
    "model_ema",
    "state_dict_ema",
    "model_ema_state_dict",
    "ema",
    "ema_model",
    "ema_state_dict",
    "ema_state",
    "ema_weights",
    "params_ema",
    "teacher",
    "swa_model",
    "averaged_model",
)
_WRAPPERS = (*_OWN, *_AVERAGED)
_KINDS = ("auto", "model", "ema")
_DEPTH = 6
"""How deep wrappers may lie in each other; a pickled dict may hold itself."""
_ARCH = ("arch", "model_name", "architecture", "backbone", "model", "net", "backbone_name", "encoder_name")


@dataclass(frozen=True, eq=False)
class Unwrapped:
    """One state dict, its names native or those of another library, and what is said about it."""

    weights: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    claim: Claim | None = None


@dataclass(frozen=True, eq=False)
class _Found:
    """A state dict below wrappers, and one group of its names."""

    wrappers: tuple[str, ...]
    averaged: bool
    content: Mapping[Any, Any]
    group: Group

    @property
    def label(self) -> str:
        return ".".join((*self.wrappers, self.group.prefix.rstrip("."))).strip(".") or "names without a prefix"


def unwrap(loaded: object, name: str, how: Reading) -> Unwrapped:
    """Return the weights that were asked for among all that a file holds, noting what was left.

    Args:
        loaded: What the file's format gave.
        name: Of the file, for errors.
        how: Says which of several networks is wanted.

    Raises:
        CheckpointError: where there is no state dict.
        UsageError: where the network that was asked for is not there.
    """
    if how.weights not in _KINDS:
        raise UsageError(f"no kind of weights: {how.weights!r}", hint=f"choose from {', '.join(_KINDS)}")
    content = _mapping(loaded)
    if content is None:
        raise CheckpointError(
            f"holds a {type(loaded).__name__}, not a state dict",
            where=name,
            hint="save model.state_dict()",
        )
    found = [
        _Found(wrappers, averaged or group.averaged, inner, group)
        for wrappers, averaged, inner in _state_dicts(content, (), _DEPTH)
        for group in groups({str(k): v for k, v in inner.items() if isinstance(v, Tensor)}, name)
    ]
    if not found:
        raise CheckpointError(
            f"no weights found (keys: {some(_innermost(content))})",
            where=name,
            hint=f"put the state dict at the top or below one of {', '.join(_OWN[:3])}",
        )
    chosen = _choose(found, name, how.weights)
    notes = (*_wrapper_notes(content, chosen, found), *chosen.group.notes, *_further_notes(chosen, found))
    return Unwrapped(dict(chosen.group.weights), notes, claim(content))


def _mapping(value: object) -> Mapping[Any, Any] | None:
    # A module is there only where the user let the file's code run.
    if isinstance(value, nn.Module):
        return value.state_dict()
    return value if isinstance(value, Mapping) else None


def _state_dicts(
    content: Mapping[Any, Any], wrappers: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], bool, Mapping[Any, Any]]]:
    """Yield every state dict with its wrappers, and whether it is an average."""
    inner = []
    for key in _WRAPPERS if depth else ():
        below = _mapping(content.get(key))
        if below is not None:
            inner += _state_dicts(below, (*wrappers, key), depth - 1)
    if inner:
        yield from inner
    elif any(isinstance(value, Tensor) for value in content.values()):
        averaged = "n_averaged" in content or any(key in _AVERAGED for key in wrappers)
        yield wrappers, averaged, content


def _innermost(content: Mapping[Any, Any]) -> list[object]:
    """Return the keys below all wrappers, for a message."""
    for _ in range(_DEPTH):
        inner = next((m for key in _WRAPPERS if (m := _mapping(content.get(key))) is not None), None)
        if inner is None:
            break
        content = inner
    return list(content)


def _choose(found: list[_Found], name: str, wanted: str) -> _Found:
    """Return the first with convolutions of the kind that is wanted; the model's own go first."""
    fitting = [f for f in found if wanted == "auto" or f.averaged == (wanted == "ema")]
    if not fitting:
        there = ", ".join(f.label for f in found)
        missing, other = ("averaged weights", "model") if wanted == "ema" else ("weights of the model", "ema")
        raise UsageError(
            f"holds no {missing} of its own (found: {printable(there)})",
            where=name,
            hint=f"--weights {other} reads what is there",
        )
    return min(fitting, key=lambda f: (not f.group.convolutions, f.averaged))


def _wrapper_notes(content: Mapping[Any, Any], chosen: _Found, found: list[_Found]) -> Iterator[str]:
    if chosen.wrappers:
        yield f"unwrapped {'.'.join(chosen.wrappers)}"
    inner: Mapping[Any, Any] = content
    for depth, key in enumerate(chosen.wrappers):
        path = chosen.wrappers[:depth]
        networks = {f.wrappers[depth] for f in found if f.wrappers[:depth] == path and len(f.wrappers) > depth}
        left = [other for other in inner if other not in networks]
        if left:
            yield f"dropped beside {key}: {some(left)}"
        inner = _mapping(inner[key]) or {}
    others = [key for key, value in inner.items() if not isinstance(value, Tensor)]
    if others:
        yield f"dropped, no tensors: {some(others)}"


def _further_notes(chosen: _Found, found: list[_Found]) -> Iterator[str]:
    """Say what other networks the file holds, and how to read them."""
    for other in found:
        if other is chosen:
            continue
        flag = "ema" if other.averaged else "model"
        reads = f": --weights {flag} reads it" if other.averaged != chosen.averaged else ", not read"
        yield f"also holds {printable(other.label)}{reads}"


def claim(content: Mapping[Any, Any]) -> Claim | None:
    """Return what the training program that wrote a checkpoint says its network is, if anything."""
    arguments = _fields(content.get("args"))
    arch, model = content.get("arch"), arguments.get("model")
    if isinstance(model, str) and {"model", "optimizer", "lr_scheduler"} <= content.keys():
        return Claim(model, "torchvision", where="args.model of the checkpoint")
    if isinstance(model, str) and "state_dict" in content:
        return Claim(model, "timm", _timm_arguments(arguments), "args.model of the checkpoint")
    if isinstance(arch, str):
        # torch's ImageNet example keeps its best accuracy, timm's training its own format's version.
        library = "torchvision" if "best_acc1" in content else "timm" if content.get("version") == 2 else ""
        return Claim(arch, library, where="arch of the checkpoint")
    for place, values in (("hyper_parameters", _fields(content.get("hyper_parameters"))), ("args", arguments)):
        for key in _ARCH:
            value = values.get(key)
            if isinstance(value, str):
                return Claim(value, where=f"{place}.{key} of the checkpoint")
    return None


def _fields(value: object) -> Mapping[str, Any]:
    """Return the fields of a dict, of an `argparse.Namespace`, or of what stands in for one."""
    if isinstance(value, Mapping):
        return value
    return getattr(value, "__dict__", {})


def _timm_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what timm's training script passes on to the network's constructor, plain values only."""
    passed = dict(_fields(arguments.get("model_kwargs")))
    if isinstance(arguments.get("gp"), str):
        passed.setdefault("global_pool", arguments["gp"])
    return {str(key): value for key, value in passed.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
