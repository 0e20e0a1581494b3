"""What a safetensors file says of itself, checked byte by byte, without its numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

MOST_TENSORS = 100_000
"""Far above any network's, and few enough to be listed at once."""
_LONGEST_HEADER = 32 << 20
_ENTRY = {"dtype", "shape", "data_offsets"}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}
"""Those that torch has in whole bytes."""


def read_header(path: Path) -> dict[str, tuple[torch.dtype, list[int]]]:
    """Return type and shape of every tensor, in the order of their numbers.

    Raises:
        ValueError: where the header does not describe the file that it is in, byte by byte.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"the header is too large, {length} bytes in a file of {size}")
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("the header is no JSON object")
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise ValueError(f"{len(header):,} tensors, at most {MOST_TENSORS:,} are read")
    for key, entry in header.items():
        if not isinstance(entry, dict) or entry.keys() != _ENTRY:
            raise ValueError(f"{key} is not described by {', '.join(sorted(_ENTRY))}")
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{key} has the unknown type {entry['dtype']}")
    entries, at = {}, 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (start, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(value) is int and value >= 0 for value in (*shape, start, end)):
            raise ValueError(f"{key} has the shape {shape} and lies at {start} to {end}")
        if start != at or end - start != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{key}, {entry['dtype']} {shape}, lies at {start} to {end}, expected from {at}")
        entries[key], at = (dtype, shape), end
    if at != size - 8 - length:
        raise ValueError(f"{size - 8 - length} bytes of numbers, expected {at}")
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object a dict, as long as none of its keys hides another."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name in the header is there twice")
    return found
