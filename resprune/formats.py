"""File formats: what a file is, and its content as torch or safetensors give it; nothing in it is ever run."""

from __future__ import annotations

import hashlib
import io
import mmap
import pickle
import re
import shlex
import stat
import warnings
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from textwrap import shorten

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from resprune import inert, nesting
from resprune.errors import CheckpointError, UnsafeCheckpointError, UsageError, printable
from resprune.headers import MOST_TENSORS, read_header
from resprune.records import Reading

_SLACK = 1 << 20
_FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FILLERS = (b"bytearray", b"_rebuild_device_tensor_from_numpy", b"_rebuild_device_tensor_from_cpu_tensor")


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
    hint = "check that the download is whole"
    if name.lower().endswith(".onnx"):
        hint = "blocks are not to be found in ONNX files; evaluate, compare, bench and check take them"
    raise CheckpointError(
        f"neither a torch nor a safetensors file (first bytes {head[:8].hex(' ')}, {size} bytes)",
        where=name,
        hint=hint,
    )


def kind_of(path: Path, name: str) -> str:
    """Return the format of a file, and refuse pipes and devices without opening them.

    Raises:
        CheckpointError: where it is no file, or none that holds weights.
        OSError: where it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(
            f"not a regular file ({_FILE_KINDS.get(stat.S_IFMT(status.st_mode), 'unknown kind')})",
            where=name,
            hint="write it to a file on disk first",
        )
    with path.open("rb") as file:
        head = file.read(512)
    return sniff(head, name, status.st_size)


def read_torch(path: Path, name: str, kind: str, how: Reading, notes: list[str]) -> object:
    """Read a torch file through torch's restricted unpickler: tensors and plain data, nothing is run.

    Args:
        path: A file that `kind_of` knows.
        name: As the user gave it.
        kind: ``torch zip`` or ``torch legacy``.
        how: ``inert`` lets stubs stand for the classes of other programs; ``unsafe_pickle`` alone runs
            code that the file names.
        notes: What was replaced or run is added.

    Raises:
        UnsafeCheckpointError: where it asks for anything else.
        CheckpointError: where it is damaged, or made to fill the memory.
        UsageError: where code is to be run and not to be run.
    """
    if how.inert and how.unsafe_pickle:
        raise UsageError("--inert and --unsafe-pickle contradict each other", hint="give --inert alone")
    try:
        if kind == "torch zip":
            _check_archive(path, name)
        if how.unsafe_pickle:
            return _run(path, kind, notes)
        _check_requests(path, name)
        _check_tuples(path, kind)
        loaded = _read_inertly(path, kind, how, notes)
        _check_sizes(loaded, path.stat().st_size, name)
        return inert.without_modules(loaded, inert.is_module, inert.state_dict)
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # torch raises almost anything on a damaged file
        raise _refusal(error, name, kind, how) from error


def _load(path: Path, kind: str, *, weights_only: bool, content: bytes | None = None) -> object:
    with warnings.catch_warnings(action="ignore"):  # they advise programmers; what is wrong is raised
        if content is not None:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=weights_only)
        if path.suffix == ".safetensors":  # torch would go by the name
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=weights_only)
        return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=kind == "torch zip")


def _run(path: Path, kind: str, notes: list[str]) -> object:
    loaded = _load(path, kind, weights_only=False)
    notes.append("the file's own code was run (--unsafe-pickle)")
    return inert.without_modules(
        loaded, lambda value: isinstance(value, nn.Module), lambda module: module.state_dict()
    )


def _read_inertly(path: Path, kind: str, how: Reading, notes: list[str]) -> object:
    stubs, content = inert.Stubs(), None
    while True:  # ends, because every round learns another of a bounded number of stubs
        try:
            with stubs.allowed():
                loaded = _load(path, kind, weights_only=True, content=content)
            break
        except pickle.UnpicklingError as error:
            if how.inert and content is None and "Only persistent_load of storage" in str(error):
                content = inert.without_sources(path.read_bytes())
            elif not how.inert or not stubs.learn(str(error)):
                raise
    if stubs.names:
        replaced = ", ".join(printable(name) for name in stubs.names)
        notes.append(f"replaced by stubs that do nothing (--inert): {replaced}")
    return loaded


def _refusal(error: Exception, name: str, kind: str, how: Reading) -> CheckpointError:
    """Put in words why torch could not read a file."""
    asked = re.search(r"GLOBAL (.+?)(?: whose module| was not)", str(error))
    save = "save the state_dict alone, torch.save(model.state_dict(), ...)"
    if asked is not None and not how.unsafe_pickle:
        stubs = f", or let stubs stand for its classes: resprune inspect {shlex.quote(name)} --inert"
        helps = not how.inert and "is blocked" not in str(error)
        return UnsafeCheckpointError(
            f"reading this file would run or import {shorten(asked[1], 120)}, so it was not read",
            where=name,
            hint=save + stubs * helps,
        )
    if "TorchScript archives" in str(error):
        return UnsafeCheckpointError(
            "reading this file would run or import TorchScript, so it was not read",
            where=name,
            hint="where you trust it, save torch.jit.load(FILE).state_dict() alone",
        )
    if how.unsafe_pickle:
        return CheckpointError(
            f"its own code failed ({type(error).__name__}: {shorten(str(error), 120, placeholder=' ...')})",
            where=name,
            hint="install what it needs, or save the state_dict alone where it was written",
        )
    return CheckpointError(
        f"damaged, cut off, or not written by torch.save ({kind}: {_brief(error)})",
        where=name,
        hint="download or save it again",
    )


def _check_archive(path: Path, name: str) -> None:
    """Refuse archives that unpack to more than they are, before torch opens them."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith("/archive_format") for entry in entries):
        raise CheckpointError(
            "a graph that torch.export saved, which has no blocks any more",
            where=name,
            hint="give the checkpoint that it was exported from",
        )
    size = path.stat().st_size
    unpacked = sum(entry.file_size for entry in entries)
    places = [PureWindowsPath(entry.orig_filename) for entry in entries]  # knows both kinds of slashes
    problem = None
    if len(entries) > MOST_TENSORS:
        problem = f"holds {len(entries):,} entries, at most {MOST_TENSORS:,} are read"
    elif unpacked > size + _SLACK:
        problem = f"unpacks to {unpacked:,} bytes from {size:,}"
    elif any(place.anchor or ".." in place.parts for place in places):
        problem = "holds an entry that lies outside of it"
    elif len(set(places)) < len(places):
        problem = "holds two entries of the same name"
    elif any(entry.compress_type != zipfile.ZIP_STORED for entry in entries if "/code/" not in entry.filename):
        problem = "is compressed, which torch.save never does"
    if problem is not None:
        raise CheckpointError(f"the zip archive {problem}", where=name, hint="download or save it again")


def _check_requests(path: Path, name: str) -> None:
    """Refuse the few calls that torch's restricted reader allows and that fill the memory by themselves."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for call in _FILLERS:
            if content.find(b"\n%s\n" % call) >= 0:
                raise CheckpointError(
                    f"it calls {call.decode()}, which nothing bounds",
                    where=name,
                    hint="save the state_dict alone",
                )


def _check_tuples(path: Path, kind: str) -> None:
    """Refuse tuples in tuples without end, before torch makes them keys or names of storages."""
    if kind == "torch zip":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if PurePosixPath(entry).name == "data.pkl":
                    nesting.check(io.BytesIO(archive.read(entry)))
        return
    with path.open("rb") as file:
        for _ in range(inert.LEGACY_PICKLES):
            if file.peek(1):  # else it is no torch file, and torch says what it is
                nesting.check(file)


def _check_sizes(loaded: object, size: int, name: str) -> None:
    """Refuse tensors that have more numbers than the file, or are too many, before anything touches them."""
    storages = {}
    for count, tensor in enumerate(inert.tensors(loaded)):
        if count == MOST_TENSORS:
            raise CheckpointError(
                f"holds more than {MOST_TENSORS:,} tensors", where=name, hint="save the state_dict alone"
            )
        if tensor.layout == torch.strided and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    if sum(storages.values()) > size:
        raise CheckpointError(
            f"claims {sum(storages.values()):,} bytes of tensors in a file of {size:,}",
            where=name,
            hint="download or save it again",
        )


def read_safetensors(path: Path, *, where: str, numbers: bool = True) -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped; without numbers its header alone, on the meta device.

    Raises:
        CheckpointError: where it is damaged.
    """
    try:
        entries = read_header(path)
        if numbers:
            return load_file(path)
        return {key: torch.empty(shape, dtype=dtype, device="meta") for key, (dtype, shape) in entries.items()}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"damaged or cut off (safetensors: {_brief(error)})", where=where, hint="download or save it again"
        ) from error


def _brief(error: Exception) -> str:
    """Return the reason that a library gives, without the advice to programmers that torch wraps it in."""
    reason = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0].strip()
    if " " not in reason:
        reason = f"{type(error).__name__} {reason}".strip()
    return shorten(reason, 120, placeholder=" ...")


def sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
