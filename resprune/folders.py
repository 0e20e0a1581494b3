"""Which files of a folder hold its weights: one, the shards of an index, or none that can be read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from resprune.errors import CheckpointError
from resprune.renaming import some

WEIGHTS_FILE = "model.safetensors"
EXITS_FILE = "exits.safetensors"
SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")
INDEX_SUFFIX = ".index.json"

_KNOWN = (
    WEIGHTS_FILE,
    WEIGHTS_FILE + INDEX_SUFFIX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX_SUFFIX,
)
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin)")
_DEEPSPEED = ("mp_rank_", "zero_pp_rank_")
_BESIDE = {
    EXITS_FILE,
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scheduler.bin",
    "scaler.pt",
    "rng_state.pth",
    "training_args.bin",
}
"""What training programs write beside the weights."""


@dataclass(frozen=True)
class Shards:
    """Files that hold a network's tensors together.

    Attributes:
        files: In the order of their names.
        names: File name -> names of the tensors that are read from it; None for all.
        notes: How they were found.
    """

    files: tuple[Path, ...]
    names: dict[str, set[str]] | None = None
    notes: tuple[str, ...] = ()


def find(folder: Path, name: str) -> Shards:
    """Return a folder's weights files.

    Raises:
        CheckpointError: where it holds none, several networks, or a distributed program's pieces.
    """
    entries = sorted(entry.name for entry in folder.iterdir())
    _refuse_pieces(entries, name)
    known = next((file for file in _KNOWN if (folder / file).is_file()), None)
    if known is not None:
        return index(folder / known, name) if known.endswith(INDEX_SUFFIX) else Shards((folder / known,))
    others = [e for e in entries if e.endswith(SUFFIXES) and e not in _BESIDE and (folder / e).is_file()]
    if len(others) == 1:
        return Shards((folder / others[0],), notes=(f"read {others[0]}, the folder's only checkpoint",))
    if others:
        raise CheckpointError(
            f"the folder holds several checkpoints ({some(others)})",
            where=name,
            hint=f"name one of them, for example resprune inspect {Path(name) / others[0]}",
        )
    raise CheckpointError(
        f"the folder holds no {WEIGHTS_FILE} (found: {some(entries)})",
        where=name,
        hint="name the weights file itself, or a folder that resprune wrote",
    )


def _refuse_pieces(entries: list[str], name: str) -> None:
    if ".metadata" in entries and any(entry.endswith(".distcp") for entry in entries):
        raise CheckpointError(
            "a distributed checkpoint of torch, in pieces",
            where=name,
            hint=f"join it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {name} network.pt",
        )
    if "zero_to_fp32.py" in entries or any(
        entry.startswith(("mp_rank_", "zero_pp_rank_")) for entry in entries
    ):
        raise CheckpointError(
            "a checkpoint of DeepSpeed, in pieces",
            where=name,
            hint=f"join it: python -m deepspeed.utils.zero_to_fp32 {name} joined",
        )


def index_of(path: Path) -> Path | None:
    """Return the index that a file is, or that it is a shard of; None for a file that is whole."""
    if path.name.endswith(INDEX_SUFFIX):
        return path
    shard = _SHARD.fullmatch(path.name)
    beside = None if shard is None else path.with_name(f"{shard[1]}{shard[2]}{INDEX_SUFFIX}")
    return beside if beside is not None and beside.is_file() else None


def index(path: Path, name: str) -> Shards:
    """Return the files that an index names.

    Raises:
        CheckpointError: where it is damaged, names files elsewhere, or files that are missing.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names: dict[str, set[str]] = {}
        for tensor, file in weight_map.items():
            names.setdefault(file, set()).add(tensor)
        files = {file: path.parent / file for file in sorted(names)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the index {path.name} is damaged ({type(error).__name__}: {error})",
            where=name,
            hint="download or save it again",
        ) from error
    folder = path.parent.resolve()
    for file, shard in files.items():
        named = file and "\0" not in file and not Path(file).is_absolute()
        if not named or not shard.resolve().is_relative_to(folder):
            raise CheckpointError(
                f"the index {path.name} names {file!r}, which is not in its folder",
                where=name,
                hint="put all shards into one folder",
            )
    missing = [file for file, shard in files.items() if not shard.is_file()]
    if missing or not files:
        raise CheckpointError(
            f"the index {path.name} names shards that are not there ({some(missing)})",
            where=name,
            hint="download them into the folder",
        )
    return Shards(tuple(files.values()), names, (f"joined {len(files)} shards",))
