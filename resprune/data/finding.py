"""What lies at a path: splits, class folders, flat folders, Parquet; one of them becomes a `Source`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from resprune.data.sources import FileSource, ParquetSource, Source
from resprune.data.splits import VALIDATION_FIRST, canonical, choose_split
from resprune.errors import DataError

LAYOUTS = "give a folder of class folders, a folder of images, or Parquet files"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}


def find_source(
    root: Path, spec: str, split: str | None, order: Sequence[str], *, strict: bool = False
) -> tuple[str | None, Source]:
    """Return the split's name and its images; see `open_source` in `resprune.data.batches`."""
    if not root.exists():
        raise DataError("no such file or folder", where=spec, hint=LAYOUTS)
    splits = _splits(root)
    name = choose_split(list(splits), spec, split, order, strict=strict)
    return name, _open_plain(root if name is None else splits[name], spec)


def _splits(root: Path) -> dict[str, Path | tuple[Path, ...]]:
    """Return the splits at a path: folders named after one, or Parquet files whose names begin with one."""
    if root.is_file():
        match = re.match(r"[A-Za-z]+", root.name)
        known = match is not None and root.suffix == ".parquet"
        name = canonical(match[0]) if known and match is not None else ""
        return {name: (root,)} if name in VALIDATION_FIRST else {}
    files: dict[str, list[Path]] = {}
    for path in sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")]):
        match = re.match(r"[A-Za-z]+", path.name)
        if match is not None:
            files.setdefault(canonical(match[0]), []).append(path)
    if files:
        return {name: tuple(paths) for name, paths in files.items()}
    folders = {canonical(f.name): f for f in _folders(root)}
    # A class may be called "train": folders are splits only where all of them are.
    return dict(folders) if set(folders) <= set(VALIDATION_FIRST) else {}


def _open_plain(place: Path | tuple[Path, ...], spec: str) -> Source:
    """Open what is not divided into splits."""
    if isinstance(place, tuple):
        return ParquetSource.open(place)
    if place.is_file():
        if place.suffix != ".parquet":
            raise DataError(f"{place.suffix or 'a file'} is no data that can be read", where=spec, hint=LAYOUTS)
        return ParquetSource.open((place,))
    parquet = sorted(place.glob("*.parquet"))
    if parquet:
        return ParquetSource.open(parquet)
    folders = _folders(place)
    if not folders:
        return FileSource(tuple((path, None) for path in _images(place)), None)
    files = [(path, label) for label, folder in enumerate(folders) for path in _images(folder)]
    return FileSource(tuple(files), tuple(folder.name for folder in folders))


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> Iterable[Path]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    return sorted(path for path in found if not path.name.startswith("."))
