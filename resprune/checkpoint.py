"""A file or folder becomes a `Checkpoint`: read without running anything in it, unwrapped, checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from resprune.errors import ArchitectureError, CheckpointError, UnsafeCheckpointError
from resprune.records import Architecture, Origin, Preprocessing

DEMO = "demo"
"""Name of the small trained network that the package ships."""
DEMO_FOLDER = Path(__file__).parent / "demo"

WEIGHTS_FILE = "model.safetensors"
EXITS_FILE = "exits.safetensors"
CONFIG_FILE = "config.json"

_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "model_ema",
    "state_dict_ema",
    "ema",
    "weights",
)
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights as they were stored, with all that the file says about them.

    Attributes:
        weights: Native parameter and buffer names; float32, finite, on the CPU.
        origin: Where they came from and what was done to them.
        architecture, preprocessing: From the file's own metadata; None where it has none.
        exit_statistics: Norm's path -> (mean, variance), (exits, channels) each.
    """

    weights: dict[str, Tensor]
    origin: Origin
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    exit_statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def read(source: str | Path) -> Checkpoint:
    """Read a checkpoint file, a folder with ``model.safetensors``, or ``demo``.

    No code in a file is ever run: pickles go through torch's restricted reader.

    Raises:
        CheckpointError: where it is missing, no checkpoint, or broken.
        UnsafeCheckpointError: where a pickle asks for something else than tensors and plain data.
        ArchitectureError: where tensors are no usable weights (NaN, integers, ...).
    """
    path = DEMO_FOLDER if str(source) == DEMO else Path(source)
    try:
        if path.is_dir():
            return _read_folder(path, str(source))
        return _read_file(path, str(source))
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", where=source) from error


def _read_folder(folder: Path, name: str) -> Checkpoint:
    weights_path = folder / WEIGHTS_FILE
    if not weights_path.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise CheckpointError(
            f"the folder holds no {WEIGHTS_FILE} (found {found})",
            where=name,
            hint="name the weights file itself, or a folder that resprune wrote",
        )
    architecture, preprocessing = _read_config(folder / CONFIG_FILE)
    notes: list[str] = []
    weights = _clean(_read_safetensors(weights_path, name), name, notes)
    exits_path = folder / EXITS_FILE
    exit_statistics = {}
    if exits_path.is_file():
        exit_statistics = _pair_statistics(_read_safetensors(exits_path, name), name)
        notes.append(f"batch-norm statistics of the exits' own from {EXITS_FILE}")
    origin = Origin(name, _sha256(weights_path), "safetensors folder", tuple(notes))
    return Checkpoint(weights, origin, architecture, preprocessing, exit_statistics)


def _read_file(path: Path, name: str) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(
            "no such file or folder",
            where=name,
            hint=f"give a checkpoint ({', '.join(_SUFFIXES)}), a folder, or {DEMO!r}",
        )
    with path.open("rb") as file:
        head = file.read(512)
    kind = _sniff(head, name, path.stat().st_size)
    notes: list[str] = []
    if kind == "safetensors":
        weights = _clean(_read_safetensors(path, name), name, notes)
    else:
        weights = _clean(_unwrap(_read_torch(path, name, kind), name, notes), name, notes)
    return Checkpoint(weights, Origin(name, _sha256(path), kind, tuple(notes)))


def _sniff(head: bytes, name: str, size: int) -> str:
    """Tell the format from the first bytes; a name's suffix is not asked."""
    text = head.lstrip().lower()
    if size == 0:
        raise CheckpointError("the file is empty", where=name, hint="download or save it again")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError("this is a Git LFS pointer, not the file", where=name, hint="run git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            "this is a web page, not a checkpoint", where=name, hint="download the file behind the link"
        )
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < max(size, 9):
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "torch legacy"
    raise CheckpointError(
        f"neither a torch nor a safetensors file (first bytes {head[:8].hex(' ')}, {size} bytes)",
        where=name,
        hint="check that the download is whole",
    )


def _read_torch(path: Path, name: str, kind: str) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "torch zip")
    except OSError:
        raise
    except Exception as error:  # torch raises almost anything on a damaged file
        asked = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"class (\S+) ", str(error))
        if "Weights only load failed" in str(error) and asked is not None:
            raise UnsafeCheckpointError(
                f"reading this file would run or import {asked[1]}, so it was not read",
                where=name,
                hint="save the state_dict alone, torch.save(model.state_dict(), ...)",
            ) from error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(
            f"damaged or cut off ({kind}: {reason})", where=name, hint="download or save it again"
        ) from error


def _read_safetensors(path: Path, name: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"damaged or cut off (safetensors: {reason})", where=f"{name}, {path.name}", hint="save it again"
        ) from error


def _read_config(path: Path) -> tuple[Architecture | None, Preprocessing | None]:
    """Return what the ``resprune`` section of a config says; None, None where there is none."""
    if not path.is_file():
        return None, None
    try:
        section = json.loads(path.read_text(encoding="utf-8")).get("resprune")
        if section is None:
            return None, None
        return (
            Architecture.from_json(section["architecture"]),
            Preprocessing.from_json(section["preprocessing"], source=CONFIG_FILE),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the config is damaged ({type(error).__name__}: {error})",
            where=path,
            hint="write the folder again with resprune",
        ) from error


def _unwrap(loaded: object, name: str, notes: list[str]) -> dict[Any, Any]:
    """Descend to the state dict below training scripts' wrappers, noting every step."""
    where = []
    while isinstance(loaded, Mapping) and not any(isinstance(value, Tensor) for value in loaded.values()):
        inner = next((key for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            keys = ", ".join(map(str, list(loaded)[:6])) or "none"
            raise CheckpointError(
                f"no weights found (keys: {keys})",
                where=name,
                hint=f"put the state dict at the top or below one of {', '.join(_WRAPPERS[:3])}",
            )
        where.append(inner)
        left = [str(key) for key in loaded if key != inner]
        if left:
            notes.append(f"dropped beside {inner}: {', '.join(left[:6])}{' ...' if len(left) > 6 else ''}")
        loaded = loaded[inner]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"holds a {type(loaded).__name__}, not a state dict",
            where=name,
            hint="save model.state_dict()",
        )
    if where:
        notes.insert(0, f"unwrapped {'.'.join(where)}")
    return dict(loaded)


def _clean(loaded: Mapping[Any, Any], name: str, notes: list[str]) -> dict[str, Tensor]:
    """Keep tensors, strip prefixes, convert to float32, and refuse what is no usable weight."""
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    weights = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if others:
        notes.append(f"dropped, no tensors: {', '.join(others[:6])}{' ...' if len(others) > 6 else ''}")
    if not weights:
        raise CheckpointError("no tensors found", where=name, hint="save model.state_dict()")
    weights = _strip_prefixes(weights, notes)
    converted = set()
    for key, tensor in weights.items():
        if key.endswith("num_batches_tracked"):
            continue
        problem = _problem(tensor)
        if problem is not None:
            raise ArchitectureError(
                f"{key} {problem}", where=name, hint="use a checkpoint saved before the damage"
            )
        if tensor.dtype != torch.float32:
            converted.add(str(tensor.dtype).removeprefix("torch."))
            weights[key] = tensor.float()
    if converted:
        notes.append(f"converted to float32 from {', '.join(sorted(converted))}")
    return weights


def _strip_prefixes(weights: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    stripped = []
    while True:
        prefix = next((p for p in _PREFIXES if all(key.startswith(p) for key in weights)), None)
        if prefix is None:
            break
        stripped.append(prefix)
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    if stripped:
        notes.append(f"stripped the prefix {''.join(stripped)}")
    return weights


def _problem(tensor: Tensor) -> str | None:
    """Say in words why a tensor is no usable weight, or None."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"is stored as {tensor.layout}, not as plain numbers"
    if tensor.device.type == "meta":
        return "has a shape and no numbers (meta device)"
    if not tensor.is_floating_point():
        return f"holds {str(tensor.dtype).removeprefix('torch.')} where floating-point weights are expected"
    bad = int((~torch.isfinite(tensor)).sum())
    return f"holds {bad} values that are NaN or infinite, of {tensor.numel()}" if bad else None


def _pair_statistics(tensors: dict[str, Tensor], name: str) -> dict[str, tuple[Tensor, Tensor]]:
    means = {
        key.removesuffix(".running_mean"): t for key, t in tensors.items() if key.endswith(".running_mean")
    }
    try:
        pairs = {path: (mean, tensors[f"{path}.running_var"]) for path, mean in means.items()}
    except KeyError as error:
        raise CheckpointError(f"{EXITS_FILE} lacks {error}", where=name, hint="write it again") from error
    for path, pair in pairs.items():
        problem = next(filter(None, map(_problem, pair)), None)
        if problem is not None:
            raise ArchitectureError(f"{path} {problem}", where=f"{name}, {EXITS_FILE}")
    return pairs


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
