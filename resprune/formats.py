"""File formats: what a file is, and its content as torch or safetensors give it; nothing in it is ever run."""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path
from textwrap import shorten

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from resprune.errors import CheckpointError, UnsafeCheckpointError
from resprune.records import READ_SAFELY, Reading


def sniff(head: bytes, name: str, size: int) -> str:
    """Tell the format from the first bytes; a name's suffix is not asked.

    Raises:
        CheckpointError: where it is none that holds weights.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if size == 0:
        raise CheckpointError("the file is empty", where=name, hint="download or save it again")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError("this is a Git LFS pointer, not the file", where=name, hint="run git lfs pull")
    if text.startswith((b"<!doctype", b"<!--", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            "this is a web page, not a checkpoint", where=name, hint="download the file behind the link"
        )
    if head.startswith(b"PK\x03\x04"):
        return "torch zip"
    if head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "torch legacy"
    raise CheckpointError(
        f"neither a torch nor a safetensors file (first bytes {head[:8].hex(' ')}, {size} bytes)",
        where=name,
        hint="check that the download is whole",
    )


def read_torch(path: Path, name: str, kind: str, how: Reading = READ_SAFELY) -> object:
    """Read a torch file through torch's restricted unpickler: tensors and plain data, nothing is run.

    Raises:
        UnsafeCheckpointError: where it asks for anything else.
        CheckpointError: where it is damaged.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # they advise programmers; what is wrong is raised
            return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "torch zip")
    except OSError:
        raise
    except Exception as error:  # torch raises almost anything on a damaged file
        asked = re.search(r"GLOBAL ([\w.]+)", str(error)) or re.search(r"(TorchScript) archives", str(error))
        if asked is not None:
            raise UnsafeCheckpointError(
                f"reading this file would run or import {asked[1]}, so it was not read",
                where=name,
                hint="save the state_dict alone, torch.save(model.state_dict(), ...)",
            ) from error
        raise CheckpointError(
            f"damaged, cut off, or not written by torch.save ({kind}: {_brief(error)})",
            where=name,
            hint="download or save it again",
        ) from error


def read_safetensors(path: Path, *, where: str, numbers: bool = True) -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped.

    Raises:
        CheckpointError: where it is damaged.
    """
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"damaged or cut off (safetensors: {_brief(error)})", where=where, hint="download or save it again"
        ) from error


def _brief(error: Exception) -> str:
    """Return the reason that a library gives, without the advice to programmers that torch wraps it in."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    return shorten(reason, 120, placeholder=" ...") or type(error).__name__


def sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
