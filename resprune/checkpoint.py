"""A file or folder becomes a `Checkpoint`: read without running anything in it, unwrapped, checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resprune import registered
from resprune.errors import ArchitectureError, CheckpointError, printable
from resprune.formats import kind_of, read_safetensors, read_torch, sha256
from resprune.records import READ_SAFELY, Architecture, Claim, Origin, Preprocessing, Reading

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
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights as they were stored, with all that the file says about them.

    Attributes:
        weights: Native parameter and buffer names; float32, finite, on the CPU.
        origin: Where they came from and what was done to them.
        architecture, preprocessing: From the file's own metadata; None where it has none.
        claim: What metadata of another program says the network is, if anything.
        exit_statistics: Norm's path -> (mean, variance), (exits, channels) each.
    """

    weights: dict[str, Tensor]
    origin: Origin
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    claim: Claim | None = None
    exit_statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def read(source: str | Path, how: Reading = READ_SAFELY) -> Checkpoint:
    """Read a checkpoint file, a folder with ``model.safetensors``, ``demo``, or ``torchvision/NAME``.

    No code in a file is ever run: pickles go through torch's restricted reader.

    Raises:
        CheckpointError: where it is missing, no checkpoint, or broken.
        UnsafeCheckpointError: where a pickle asks for something else than tensors and plain data.
        ArchitectureError: where tensors are no usable weights (NaN, integers, ...).
    """
    path = DEMO_FOLDER if str(source) == DEMO else Path(source)
    try:
        found = None if path.exists() else registered.find(str(source))
        if found is not None:
            return replace(_read_file(found[0], str(source), how), preprocessing=found[1], claim=found[2])
        if path.is_dir():
            return _read_folder(path, str(source))
        return _read_file(path, str(source), how)
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror or error})",
            where=source,
            hint="check the name, its links and its permissions",
        ) from error


def _read_folder(folder: Path, name: str) -> Checkpoint:
    weights_path = folder / WEIGHTS_FILE
    if not weights_path.is_file():
        found = sorted(entry.name for entry in folder.iterdir())
        raise CheckpointError(
            f"the folder holds no {WEIGHTS_FILE} (found: {_some(found)})",
            where=name,
            hint="name the weights file itself, or a folder that resprune wrote",
        )
    architecture, preprocessing = _read_config(folder / CONFIG_FILE)
    notes: list[str] = []
    weights = _clean(read_safetensors(weights_path, where=f"{name}, {WEIGHTS_FILE}"), name, notes)
    exits_path = folder / EXITS_FILE
    exit_statistics = {}
    if exits_path.is_file():
        exit_statistics = _pair_statistics(read_safetensors(exits_path, where=f"{name}, {EXITS_FILE}"), name)
        notes.append(f"batch-norm statistics of the exits' own from {EXITS_FILE}")
    origin = Origin(name, sha256(weights_path), "safetensors folder", tuple(notes))
    return Checkpoint(weights, origin, architecture, preprocessing, exit_statistics=exit_statistics)


def _read_file(path: Path, name: str, how: Reading) -> Checkpoint:
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(
            "no such file or folder",
            where=name,
            hint=f"give a checkpoint ({', '.join(_SUFFIXES)}), a folder, or {DEMO!r}",
        )
    kind = kind_of(path, name)
    notes: list[str] = []
    if kind == "safetensors":
        weights = _clean(read_safetensors(path, where=name), name, notes)
    else:
        weights = _clean(_unwrap(read_torch(path, name, kind, how, notes), name, notes), name, notes)
    return Checkpoint(weights, Origin(name, sha256(path), kind, tuple(notes)))


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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the config is damaged ({type(error).__name__}: {error})",
            where=path,
            hint="write the folder again with resprune",
        ) from error


def _unwrap(loaded: object, name: str, notes: list[str]) -> dict[Any, Any]:
    """Descend to the state dict below training scripts' wrappers, noting every step."""
    where: list[str] = []
    # Bounded, because a pickled dict may hold itself.
    while isinstance(loaded, Mapping) and len(where) < len(_WRAPPERS):
        inner = next((key for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if inner is None:
            break
        where.append(inner)
        left = [key for key in loaded if key != inner]
        if left:
            notes.append(f"dropped beside {inner}: {_some(left)}")
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
    others = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
    weights = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if others:
        notes.append(f"dropped, no tensors: {_some(others)}")
    if not weights:
        raise CheckpointError(
            f"no weights found (keys: {_some(others)})",
            where=name,
            hint=f"put the state dict at the top or below one of {', '.join(_WRAPPERS[:3])}",
        )
    weights = _strip_prefixes(weights, notes)
    converted = set()
    for key, tensor in weights.items():
        if key.endswith("num_batches_tracked"):
            continue
        problem = _problem(tensor)
        if problem is None and key.endswith("running_var") and bool((tensor < 0).any()):
            problem = "holds negative variances"
        if problem is not None:
            raise ArchitectureError(
                f"{key} {problem}", where=name, hint="use an undamaged checkpoint of floating-point weights"
            )
        if tensor.dtype != torch.float32:
            converted.add(str(tensor.dtype).removeprefix("torch."))
            weights[key] = tensor.float()
    if converted:
        notes.append(f"converted to float32 from {', '.join(sorted(converted))}")
    return weights


def _some(names: Iterable[object]) -> str:
    """List the first few; what a file calls its contents may hold anything."""
    texts = [printable(str(name)) for name in names]
    return ", ".join(texts[:6]) + (" ..." if len(texts) > 6 else "") or "none"


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
    if tensor.layout != torch.strided:
        return f"is stored as {tensor.layout}, not as plain numbers"
    if tensor.device.type == "meta":
        return "has a shape and no numbers (meta device)"
    if tensor.dtype not in _FLOATS:
        got = str(tensor.dtype).removeprefix("torch.")
        return f"holds {got} where floating-point weights of 16 to 64 bits are expected"
    if not tensor.numel():
        return f"has no values, shape {tuple(tensor.shape)}"
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if stored < tensor.numel():  # a small file must not fill the memory
        return f"has the shape {tuple(tensor.shape)} and only {stored} stored values"
    bad = int((~torch.isfinite(tensor.float())).sum())
    return f"holds {bad} values that are NaN or infinite in float32, of {tensor.numel()}" if bad else None


def _pair_statistics(tensors: dict[str, Tensor], name: str) -> dict[str, tuple[Tensor, Tensor]]:
    means = {
        key.removesuffix(".running_mean"): t for key, t in tensors.items() if key.endswith(".running_mean")
    }
    try:
        pairs = {path: (mean, tensors[f"{path}.running_var"]) for path, mean in means.items()}
    except KeyError as error:
        raise CheckpointError(
            f"{EXITS_FILE} lacks {error}", where=name, hint="write the folder again"
        ) from error
    for path, (mean, var) in pairs.items():
        problem = _problem(mean) or _problem(var)
        if problem is None and (mean.ndim != 2 or mean.shape != var.shape or bool((var < 0).any())):
            problem = "has no means and variances of shape (exits, channels)"
        if problem is not None:
            raise ArchitectureError(
                f"{path} {problem}", where=f"{name}, {EXITS_FILE}", hint="write the folder again with resprune"
            )
    return pairs
