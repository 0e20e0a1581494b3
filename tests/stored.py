"""A small network's weights as they lie on users' disks: stored, wrapped, cut and damaged in many ways."""

from __future__ import annotations

import io
import json
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from conftest import ARCHITECTURES, make_chain
from torch import Tensor, nn

Weights = dict[str, Tensor]


def weights() -> Weights:
    """Return the state dict of a small CIFAR ResNet: the same numbers, in new tensors, every time."""
    return dict(make_chain(ARCHITECTURES["cifar option A"]).network.state_dict())


def cast(change: Callable[[Tensor], Tensor]) -> Weights:
    return {name: change(t) if t.is_floating_point() else t for name, t in weights().items()}


def without(key: str) -> Weights:
    return {name: tensor for name, tensor in weights().items() if name != key}


def filled(key: str, value: float) -> Weights:
    state = weights()
    state[key].view(-1)[0] = value
    return state


def prefixed(prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights().items()}


def zipped(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def legacy(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def torchscript() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # torch deprecates what users still have
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr(name, "hello")
    return file.getvalue()


def packed(pickled: bytes, **entries: bytes) -> bytes:
    """Return a torch zip around a pickle; `entries` are further files below its folder."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in {
            "data.pkl": pickled,
            "version": b"3\n",
            "byteorder": b"little",
            **entries,
        }.items():
            opened.writestr(f"archive/{name}", content)
    return file.getvalue()


def packed_legacy(pickled: bytes) -> bytes:
    """Return a legacy torch file without storages around a pickle."""
    around = legacy(None)
    nothing = pickle.dumps(None, protocol=2)
    start = around.rindex(nothing)
    return around[:start] + pickled + around[start + len(nothing) :]


def rezipped(content: bytes, compression: int, more: Mapping[str, bytes] = MappingProxyType({})) -> bytes:
    """Return a zip with the same entries, and more of them."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        for name, data in more.items():
            new.writestr(name, data)
    return file.getvalue()


def tensorfile(header: object, numbers: int = 0) -> bytes:
    """Return a safetensors file with any header, as text or as an object, and zeros for numbers."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(numbers)


def flipped(content: bytes, seed: int, within: int | None = None) -> bytes:
    """Return the content with one bit changed, in its first bytes or anywhere."""
    chosen = random.Random(seed)
    changed = bytearray(content)
    changed[chosen.randrange(within or len(content))] ^= 1 << chosen.randrange(8)
    return bytes(changed)


def laughing(levels: int) -> bytes:
    """Return a pickle of a list that holds the list below it ten times, and so on: 10 ** levels items."""
    code = b"]q\x00"
    for level in range(1, levels):
        code += b"]q%c(%se" % (level, b"h%c" % (level - 1) * 10)
    return code


class Payload:
    """Calls a function as soon as it is unpickled without protection."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call = call
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def holding_itself() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content
