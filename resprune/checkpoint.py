"""A file or folder becomes a `Checkpoint`: read without running anything in it, unwrapped, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resprune import configs, folders, registered
from resprune.configs import CONFIG_FILE
from resprune.errors import ArchitectureError, CheckpointError
from resprune.folders import EXITS_FILE, SUFFIXES, WEIGHTS_FILE, Shards
from resprune.formats import kind_of, read_safetensors, read_torch, sha256
from resprune.plurals import counted
from resprune.records import READ_SAFELY, Architecture, Claim, Origin, Preprocessing, Reading
from resprune.renaming import some
from resprune.unwrap import unwrap

__all__ = ["CONFIG_FILE", "DEMO", "DEMO_FOLDER", "EXITS_FILE", "WEIGHTS_FILE", "Checkpoint", "files_of", "read"]

DEMO = "demo"
"""Name of the small trained network that the package ships."""
DEMO_FOLDER = Path(__file__).parent / "demo"

_UNDAMAGED = "use an undamaged checkpoint of floating-point weights"
_MOST_COPIES = 4
_SLACK = 1 << 20
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights as they were stored, with all that the file says about them.

    Attributes:
        weights: Native parameter and buffer names; float32, finite, on the CPU.
        origin: Where they came from and what was done to them.
        architecture, preprocessing: From the file's own metadata; None where it has none.
        claim: What metadata of another program says the network is, if anything.
        exit_state: What the exits have of their own: name of a tensor -> (exits, ...), row k for exit k.
    """

    weights: dict[str, Tensor]
    origin: Origin
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    claim: Claim | None = None
    exit_state: Mapping[str, Tensor] = field(default_factory=dict)


def read(source: str | Path, how: Reading = READ_SAFELY) -> Checkpoint:
    """Read a checkpoint file, a folder, a registered name (``timm/NAME``, ``torchvision/NAME``), or ``demo``.

    No code in a file is run, unless ``how`` asks for exactly that.

    Args:
        source: Where it is.
        how: Which weights of several, and how far the file is trusted.

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
            return _read_folder(path, str(source), how)
        index = folders.index_of(path) if path.is_file() else None
        if index is not None:
            return _read_shards(folders.index(index, str(source)), str(source), how)
        return _read_file(path, str(source), how)
    except OSError as error:
        raise CheckpointError(
            f"cannot be read ({error.strerror or error})",
            where=source,
            hint="check the name, its links and its permissions",
        ) from error


def files_of(source: str | Path) -> tuple[Path, ...]:
    """Return the files that hold a network's weights: of a checkpoint, a folder, a name, or an ONNX file.

    Raises:
        CheckpointError: where a folder holds no single network, or a name none.
        OSError: where a folder cannot be listed.
    """
    path = DEMO_FOLDER if str(source) == DEMO else Path(source)
    found = None if path.exists() else registered.find(str(source))
    if found is not None:
        return (found[0],)
    if path.is_dir():
        return folders.find(path, str(source)).files
    index = folders.index_of(path)
    if index is not None:
        return folders.index(index, str(source)).files
    beside = path.with_name(f"{path.name}.data")  # where an ONNX file of more than 2 GB keeps its weights
    return (path, beside) if path.suffix == ".onnx" and beside.is_file() else (path,)


def _read_folder(folder: Path, name: str, how: Reading) -> Checkpoint:
    shards = folders.find(folder, name)
    description = configs.describe(folder)
    checkpoint = _read_shards(shards, name, how, inside=True)
    notes, origin = list(checkpoint.origin.notes), checkpoint.origin
    exits_path = folder / EXITS_FILE
    exit_state = {}
    if exits_path.is_file() and description.architecture is not None:
        place = f"{name}, {EXITS_FILE}"
        exit_state = _rows(read_safetensors(exits_path, where=place, numbers=how.numbers), place, how.numbers)
        kind = "batch-norm statistics" if all(".running_" in key for key in exit_state) else "heads"
        notes.append(f"{kind} of the exits' own from {EXITS_FILE}")
    return replace(
        checkpoint,
        origin=replace(origin, format=f"{origin.format} folder", notes=tuple(notes)),
        architecture=description.architecture,
        preprocessing=description.preprocessing,
        claim=description.claim or checkpoint.claim,
        exit_state=exit_state,
    )


def _read_file(path: Path, name: str, how: Reading) -> Checkpoint:
    if not path.exists() and not path.is_symlink():
        raise CheckpointError(
            "no such file or folder",
            where=name,
            hint=f"give a checkpoint ({', '.join(SUFFIXES)}), a folder, or {DEMO!r}",
        )
    return _read_shards(Shards((path,)), name, how)


def _read_shards(shards: Shards, name: str, how: Reading, *, inside: bool = False) -> Checkpoint:
    """Read one file, or several that hold a network together."""
    notes: list[str] = []
    contents, kinds, hashes = [], set(), []
    for path in shards.files:
        place = f"{name}, {path.name}" if inside or shards.names is not None else name
        content, kind = _read_content(path, place, how, notes)
        if shards.names is not None:
            content = _shard(content, shards.names[_inner_name(path, shards)], place)
        contents.append(content)
        kinds.add(kind)
        hashes.append("" if kind == "safetensors" and not how.numbers else sha256(path))
    loaded = contents[0] if shards.names is None else {key: t for part in contents for key, t in part.items()}
    found = unwrap(loaded, name, how)
    notes += [*shards.notes, *found.notes]
    weights = _clean(found.weights, name, notes, how.numbers or kinds != {"safetensors"})
    digest = hashes[0]
    if shards.names is not None:
        digest = hashlib.sha256("".join(hashes).encode()).hexdigest() if all(hashes) else ""
    kind = ("sharded " if shards.names is not None else "") + ", ".join(sorted(kinds))
    return Checkpoint(weights, Origin(name, digest, kind, tuple(notes)), claim=found.claim)


def _inner_name(path: Path, shards: Shards) -> str:
    return next(name for name in shards.names or () if path.parts[-len(Path(name).parts) :] == Path(name).parts)


def _read_content(path: Path, name: str, how: Reading, notes: list[str]) -> tuple[Any, str]:
    """Return what a file holds, and its format."""
    kind = kind_of(path, name)
    if kind == "safetensors":
        return read_safetensors(path, where=name, numbers=how.numbers), kind
    return read_torch(path, name, kind, how, notes), kind


def _shard(content: object, names: set[str], name: str) -> dict[str, Any]:
    """Return the tensors that the index promises of one shard."""
    missing = sorted(names - content.keys()) if isinstance(content, Mapping) else sorted(names)
    if missing or not isinstance(content, Mapping):
        raise CheckpointError(
            f"the shard lacks tensors that the index names ({some(missing)})",
            where=name,
            hint="download it again",
        )
    return {key: content[key] for key in names}


def _clean(loaded: Mapping[str, Tensor], name: str, notes: list[str], numbers: bool) -> dict[str, Tensor]:
    """Convert to float32, and refuse what is no usable weight."""
    weights = dict(loaded)
    converted = set()
    _check_copies(weights, name)
    for key, tensor in weights.items():
        if key.endswith("num_batches_tracked"):
            if (
                tensor.layout != torch.strided
                or tensor.numel() != 1
                or (numbers and tensor.device.type == "meta")
            ):
                raise ArchitectureError(f"{key} holds no single count", where=name, hint=_UNDAMAGED)
            continue
        problem = _problem(tensor, numbers)
        if problem is None and numbers and key.endswith("running_var") and bool((tensor < 0).any()):
            problem = "holds negative variances"
        if problem is not None:
            raise ArchitectureError(f"{key} {problem}", where=name, hint=_UNDAMAGED)
        if tensor.dtype != torch.float32:
            converted.add(str(tensor.dtype).removeprefix("torch."))
            weights[key] = tensor.float()
    if converted:
        notes.append(f"converted to float32 from {', '.join(sorted(converted))}")
    return weights


def _check_copies(weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse many tensors of the same stored numbers: each gets its own later, and memory has an end."""
    storages, asked = {}, 0
    for tensor in weights.values():
        if tensor.layout == torch.strided and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            if tensor.numel() * tensor.element_size() <= storage.nbytes():  # what has more is refused by name
                storages[storage.data_ptr()] = storage.nbytes()
                asked += tensor.numel() * tensor.element_size()
    if asked > _MOST_COPIES * sum(storages.values()) + _SLACK:
        raise CheckpointError(
            f"has {asked:,} bytes of tensors in {sum(storages.values()):,} stored ones",
            where=name,
            hint="save the state_dict alone",
        )


def _problem(tensor: Tensor, numbers: bool) -> str | None:
    """Say in words why a tensor is no usable weight, or None."""
    if tensor.layout != torch.strided:
        return f"is stored as {tensor.layout}, not as plain numbers"
    if numbers and tensor.device.type == "meta":
        return "has a shape and no numbers (meta device)"
    if tensor.dtype not in _FLOATS:
        got = str(tensor.dtype).removeprefix("torch.")
        return f"holds {got} where floating-point weights of 16 to 64 bits are expected"
    if not tensor.numel():
        return f"has no values, shape {tuple(tensor.shape)}"
    return _problem_of_numbers(tensor) if numbers else None


def _problem_of_numbers(tensor: Tensor) -> str | None:
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if stored < tensor.numel():  # a small file must not fill the memory
        return f"has the shape {tuple(tensor.shape)} and only {stored} stored values"
    bad = int((~torch.isfinite(tensor.float())).sum())
    return f"has {bad:,} of {counted(tensor.numel(), 'value')} NaN or infinite in float32" if bad else None


def _rows(tensors: dict[str, Tensor], place: str, numbers: bool) -> dict[str, Tensor]:
    """Return what the exits have of their own, refusing what is no such thing."""
    for key, tensor in tensors.items():
        problem = _problem(tensor, numbers)
        if problem is None and not tensor.ndim:
            problem = "has no row for every exit"
        if problem is None and numbers and key.endswith("running_var") and bool((tensor < 0).any()):
            problem = "holds negative variances"
        if problem is not None:
            raise ArchitectureError(
                f"{key} {problem}", where=place, hint="write the folder again with resprune"
            )
    for key in tensors:
        variances = key.removesuffix("mean") + "var"
        if key.endswith(".running_mean") and variances not in tensors:
            raise CheckpointError(f"lacks {variances}", where=place, hint="write the folder again")
    return tensors
