"""Images by their index: what training needs, and a stream cannot give."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from resprune.data.decoding import decode, decode_or_count, decode_whole
from resprune.data.sources import Direct, Item, ParquetSource, Source, check_label, unreadable
from resprune.errors import DataError
from resprune.machine import machine_memory
from resprune.records import Preprocessing

OnImages = Callable[[int], None]
"""Called with the number of images that are done since the last call."""
NO_LABEL = -100
"""Stands for the class of an image that has none; torch's cross-entropy leaves it out."""
_ROWS = 256
_log = logging.getLogger("resprune")


class RandomAccess(Protocol):
    """Undecoded images that can be read in any order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


@dataclass(frozen=True)
class Chosen:
    """Some of the images of a source that is read image by image."""

    source: Direct
    chosen: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Item:
        return self.source[self.chosen[index]]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some of the rows of a `ParquetSource`, encoded, in memory; `ends` are where the chunks end."""

    source: ParquetSource
    chosen: np.ndarray
    labels: np.ndarray
    first_rows: tuple[int, ...]
    chunks: tuple[pa.Array, ...]
    ends: tuple[int, ...]

    @classmethod
    def read(cls, source: ParquetSource, chosen: Sequence[int], labels: np.ndarray) -> Rows:
        """Read the rows of ascending numbers; they are counted through all files, labels are those of all rows.

        Raises:
            DataError: where a file is damaged.
        """
        indices = np.asarray(chosen, dtype=np.int64)
        chunks: list[pa.Array] = []
        first_rows, first = [], 0
        for path in source.files:
            first_rows.append(first)
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=_ROWS, columns=["image"]):
                        bounds = np.searchsorted(indices, [first, first + len(batch)])
                        wanted = indices[bounds[0] : bounds[1]] - first
                        first += len(batch)
                        if len(wanted):
                            chunks.append(batch.column("image").take(pa.array(wanted)))
            except (OSError, pa.ArrowException) as error:
                raise unreadable(path, error) from error
        ends = np.cumsum([len(chunk) for chunk in chunks]).tolist()
        return cls(source, indices, labels[indices], tuple(first_rows), tuple(chunks), tuple(ends))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Item:
        chunk = bisect_right(self.ends, index)
        image = self.chunks[chunk][index - self.ends[chunk] + len(self.chunks[chunk])].as_py()
        row = int(self.chosen[index])
        file = bisect_right(self.first_rows, row) - 1
        label = int(self.labels[index])
        record = {"image": image, "label": None if label == NO_LABEL else label}
        return self.source.item(self.source.files[file], row - self.first_rows[file], record)


@dataclass(frozen=True)
class InOrder:
    """Images of random access as a `Source`."""

    images: RandomAccess
    label_names: tuple[str, ...] | None
    labelled: bool
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Item]:
        return (self.images[index] for index in range(len(self)))


@dataclass(frozen=True)
class Undecoded:
    """Images that are decoded when they are asked for: as the recipe has it, or whole photographs."""

    images: RandomAccess
    recipe: Preprocessing
    whole: bool

    def __getitem__(self, index: int) -> Tensor:
        item = self.images[index]
        return torch.tensor(decode_whole(item, self.recipe) if self.whole else decode(item, self.recipe))

    def look_at_all(self, index: int) -> None:
        """Look for more damaged images than one.

        Raises:
            DataError: that names the first, counts the others, and says what is wrong with it.
        """
        count = len(self.images)
        _log.warning("%s cannot be used; looking at all %d images", self.images[index].where, count)
        others = (self.images[other] for other in range(count) if other != index)
        decode_or_count(self.images[index], others, self.recipe, count)


def read_labels(source: Source, classes: int) -> np.ndarray:
    """Return the class indices (n,) int64 of all images, every one checked; no image is read.

    Images without labels have `NO_LABEL`.

    Raises:
        DataError: where a label is missing or no class of the network.
    """
    if not source.labelled:
        return np.full(len(source), NO_LABEL, dtype=np.int64)
    if isinstance(source, ParquetSource):
        labels: list[int] = []
        for path in source.files:
            try:
                with pq.ParquetFile(path) as file:
                    column = file.read(columns=["label"]).column("label").to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise unreadable(path, error) from error
            for row, label in enumerate(column):
                check_label(label, classes, f"{path}, row {row}")
            labels += column
    else:
        direct = _direct(source)
        labels = [cast("int", direct.label(index)) for index in range(len(direct))]
        for index, label in enumerate(labels):
            check_label(label, classes, direct.where(index))
    return np.array(labels, dtype=np.int64)


def random_access(source: Source, chosen: Sequence[int], labels: np.ndarray) -> RandomAccess:
    """Return the images of ascending numbers; those of Parquet files are read into memory, encoded.

    Raises:
        DataError: where a file is damaged.
    """
    if isinstance(source, ParquetSource):
        return Rows.read(source, chosen, labels)
    return Chosen(_direct(source), tuple(chosen))


def _direct(source: Source) -> Direct:
    if not isinstance(source, Direct):
        raise TypeError(f"no random access to {type(source).__name__}")
    return source


def check_encoded_size(source: Source, images: int, where: object) -> None:
    """Refuse Parquet files of which so many images would fill more than half of the machine's memory.

    Raises:
        DataError: that names the layout which needs no memory.
    """
    if isinstance(source, ParquetSource):
        size = sum(_image_bytes(path) for path in source.files) * images // max(len(source), 1)
        check_memory(size, where, "use class folders, which are read file by file, or fewer images")


def _image_bytes(path: Path) -> int:
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    columns = [group.column(k) for group in groups for k in range(group.num_columns)]
    # The column is called "image", or "image.bytes" and "image.path" where it is a struct.
    return sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == "image")


def decode_all(
    images: RandomAccess, recipe: Preprocessing, where: object, on_images: OnImages | None = None
) -> Tensor:
    """Return all images (n, h, w, c) as bytes.

    Raises:
        DataError: where an image is damaged or no input of the network, or where they do not fit into memory.
    """
    shape = (len(images), recipe.height, recipe.width, recipe.channels)
    check_memory(int(np.prod(shape)), where, "use fewer images")
    pixels = np.empty(shape, dtype=np.uint8)
    items = (images[index] for index in range(len(images)))
    for index, item in enumerate(items):
        pixels[index] = decode_or_count(item, items, recipe, len(images))
        done = index % _ROWS + 1
        if on_images is not None and (done == _ROWS or index + 1 == len(images)):
            on_images(done)
    return torch.from_numpy(pixels)


def check_memory(size: int, where: object, hint: str) -> None:
    """Refuse to fill more than half of the machine's memory; ``size`` is in bytes.

    Raises:
        DataError: that says how much there is.
    """
    limit = machine_memory() // 2
    if size > limit:
        raise DataError(
            f"the images take {size / 2**30:.1f} GiB, half of the machine's memory is {limit / 2**30:.1f} GiB",
            where=where,
            hint=hint,
        )
