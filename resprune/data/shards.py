"""WebDataset shards: uncompressed tar files of images ``KEY.jpg`` and class indices ``KEY.cls``.

Only headers and class indices are read at first. What is kept is where every image begins, so images are
read in any order, and nothing but their positions is in memory.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resprune.data.sources import Direct
from resprune.data.splits import VALIDATION_FIRST, canonical
from resprune.errors import DataError
from resprune.extras import from_extra

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm")
_LABEL = "cls"
_INFO = ("_info.json", "info.json")
"""timm's names for a file that says which shards make up a split."""
_BLOCK = 512
_HINT = "download or write it again, uncompressed"


@dataclass(frozen=True)
class Position:
    """Where an image is in the shards."""

    shard: Path
    key: str
    start: int
    size: int
    label: int | None


@dataclass(frozen=True, eq=False)
class ShardSource(Direct):
    """The images of some shards, in the order in which they are stored."""

    positions: tuple[Position, ...]
    label_names: None = None

    @property
    def labelled(self) -> bool:
        """Whether any image has a label; those without are refused when labels are checked."""
        return any(position.label is not None for position in self.positions)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The shards."""
        return tuple(dict.fromkeys(position.shard for position in self.positions))

    def __len__(self) -> int:
        return len(self.positions)

    def where(self, index: int) -> str:
        return f"{self.positions[index].shard}, sample {self.positions[index].key}"

    def content(self, index: int) -> bytes:
        position = self.positions[index]
        with position.shard.open("rb") as file:
            file.seek(position.start)
            return file.read(position.size)

    def label(self, index: int) -> int | None:
        return self.positions[index].label


def splits(spec: str, rest: str) -> dict[str, tuple[Path, ...]]:
    """Return the shards of every split, or all shards by an empty name where the data is not divided.

    Args:
        spec: As the user wrote it.
        rest: Of the spec: a shard, or a folder of shards, or of folders of shards.

    Raises:
        DataError: where there are none, or the file that lists them is damaged.
    """
    root = Path(rest).expanduser()
    if not root.exists():
        raise DataError("no such file or folder", where=spec, hint="give a folder of shards (*.tar)")
    for name in _INFO:
        if (root / name).is_file():
            return _listed(root / name)
    files = [root] if root.is_file() else sorted([*root.glob("*.tar"), *root.glob("*/*.tar")])
    if not files:
        raise DataError("no shards *.tar found", where=spec, hint="give a folder of uncompressed tar files")
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(_split_of(path.relative_to(root.parent if root.is_file() else root)), []).append(path)
    if not set(found) & set(VALIDATION_FIRST):
        return {"": tuple(files)}
    return {name: tuple(paths) for name, paths in found.items()}


def _split_of(path: Path) -> str:
    """Return the split that a name speaks of (``imagenet1k-train-0000.tar``), or else its first word."""
    words = [canonical(word) for word in re.findall(r"[A-Za-z]+", str(path.with_suffix("")))]
    return next((word for word in words if word in VALIDATION_FIRST), words[0] if words else "other")


def _listed(file: Path) -> dict[str, tuple[Path, ...]]:
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["splits"]
        names = {split: _names(entry["filenames"]) for split, entry in told.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"it lists no shards ({type(error).__name__}: {error})",
            where=file,
            hint='it needs {"splits": {"train": {"filenames": [...]}}}; or delete it',
        ) from error
    found = {
        canonical(split): tuple(file.parent / shard for shard in shards) for split, shards in names.items()
    }
    for path in (path for paths in found.values() for path in paths):
        if not path.is_file():
            raise DataError("no such shard", where=path, hint=f"{file} lists it; put it there")
    return found


def _names(entry: Any) -> list[str]:
    if not isinstance(entry, list) or not all(isinstance(name, str) for name in entry):
        raise TypeError("filenames must be a list of names")
    return entry


def open_split(spec: str, found: Mapping[str, tuple[Path, ...]], split: str | None) -> ShardSource:
    """Return the images of a split.

    Args:
        spec: As the user wrote it.
        found: What `splits` returned.
        split: One of its names, or None for data that is not divided.

    Raises:
        DataError: where a shard is damaged, or a sample has no image or a label that is no index.
        UsageError: where the library is missing.
    """
    with from_extra("data", "a spec that begins with wds/ needs"):
        from webdataset.tariterators import group_by_keys
    positions: list[Position] = []
    for shard in found[split or ""]:
        try:
            # The library says which files are one sample; it gets their places instead of their bytes.
            positions += [_position(shard, sample) for sample in group_by_keys(_members(shard))]
        except (tarfile.TarError, ValueError) as error:
            reason = " ".join(str(error.args[0] if error.args else error).split())
            raise DataError(f"no readable tar file ({reason})", where=shard, hint=_HINT) from error
    return ShardSource(tuple(positions))


def _members(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield the files of a shard: their names, and where they are or the text of a label.

    Raises:
        tarfile.TarError: where the shard is damaged.
    """
    with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and not re.match(r"__[^/]*__($|/)", member.name):
                data: Any = (member.offset_data, member.size)
                if member.name.lower().endswith(f".{_LABEL}"):
                    file.seek(member.offset_data)
                    data = file.read(member.size)
                yield {"fname": member.name, "data": data, "__url__": str(shard)}
        # tarfile takes a damaged header, and a file that was cut off between two, for the end.
        file.seek(tar.offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError(f"damaged or cut off at byte {tar.offset}")


def _position(shard: Path, sample: Mapping[str, Any]) -> Position:
    where = f"{shard}, sample {sample['__key__']}"
    image = next((name for name in _IMAGES if name in sample), None)
    if image is None:
        kinds = ", ".join(name for name in sample if not name.startswith("__"))
        raise DataError(f"no image (found {kinds})", where=where, hint=f"store it as {', '.join(_IMAGES)}")
    label = None
    if _LABEL in sample:
        try:
            label = int(sample[_LABEL])
        except ValueError as error:
            raise DataError(
                f"the label {sample[_LABEL][:20]!r} is no class index",
                where=where,
                hint="store the labels as integers from 0",
            ) from error
    start, size = sample[image]
    return Position(shard, sample["__key__"], start, size, label)
