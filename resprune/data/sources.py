"""Images in Parquet or in files of their own, read undecoded; some of them, in another order, checked."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from resprune.errors import DataError


@dataclass(frozen=True)
class Item:
    """One image, undecoded where it is stored encoded: where it is, how to open it, its class index if any."""

    where: str
    content: bytes | Path | Image.Image
    label: int | None


class Source(Protocol):
    """Images in a fixed order that can be read any number of times."""

    @property
    def label_names(self) -> tuple[str, ...] | None: ...

    @property
    def labelled(self) -> bool: ...

    @property
    def paths(self) -> tuple[Path, ...]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files in the Hugging Face image layout; read a few rows at a time."""

    files: tuple[Path, ...]
    label_names: tuple[str, ...] | None
    labelled: bool
    rows: int

    @classmethod
    def open(cls, files: Sequence[Path]) -> ParquetSource:
        """Read the files' schemas.

        Raises:
            DataError: where a file is no Parquet file, has no ``image`` column, or labels that are no indices.
        """
        rows, names, labelled = 0, None, True
        for path in files:
            try:
                with pq.ParquetFile(path) as file:
                    rows += file.metadata.num_rows
                    schema = file.schema_arrow
            except (OSError, pa.ArrowException) as error:
                raise unreadable(path, error) from error
            if "image" not in schema.names:
                raise DataError(
                    f"no column 'image' (found {', '.join(schema.names[:6])})",
                    where=path,
                    hint="use the Hugging Face image layout: image {bytes, path}, label",
                )
            if "label" in schema.names and not pa.types.is_integer(schema.field("label").type):
                raise DataError(
                    f"the column 'label' holds {schema.field('label').type}, not class indices",
                    where=path,
                    hint="store the labels as integers from 0",
                )
            labelled = labelled and "label" in schema.names
            names = names or _class_names(schema)
        return cls(tuple(files), names, labelled, rows)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files."""
        return self.files

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Item]:
        columns = ["image", "label"] if self.labelled else ["image"]
        for path in self.files:
            for row, record in enumerate(_records(path, columns)):
                yield self.item(path, row, record)

    def item(self, path: Path, row: int, record: dict) -> Item:
        """Return what a row holds, or refuse it with a `DataError`."""
        where, image = f"{path}, row {row}", record["image"]
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise DataError("the image has no bytes", where=where, hint="embed the images in the file")
        return Item(where, content, record.get("label"))


def _records(path: Path, columns: list[str]) -> Iterator[dict]:
    """Yield a file's rows.

    Raises:
        DataError: where the file is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64, columns=columns):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Return the class names of the Hugging Face metadata, or None where there are none."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]
        return tuple(info["features"]["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a damaged Parquet file."""
    reason = " ".join(str(error).split())
    return DataError(f"no readable Parquet file ({reason})", where=path, hint="download or write it again")


class Direct(ABC):
    """A source whose images can be read in any order, and whose labels without the images."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def labelled(self) -> bool: ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold the images; none where another library keeps them in a form of its own."""
        return ()

    @abstractmethod
    def where(self, index: int) -> str: ...

    @abstractmethod
    def content(self, index: int) -> bytes | Path | Image.Image: ...

    @abstractmethod
    def label(self, index: int) -> int | None: ...

    def __getitem__(self, index: int) -> Item:
        return Item(self.where(index), self.content(index), self.label(index))

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class FileSource(Direct):
    """Image files with their class indices."""

    files: tuple[tuple[Path, int | None], ...]
    label_names: tuple[str, ...] | None

    @property
    def labelled(self) -> bool:
        """Whether the files were found in class folders."""
        return self.label_names is not None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, an image each."""
        return tuple(path for path, _ in self.files)

    def __len__(self) -> int:
        return len(self.files)

    def where(self, index: int) -> str:
        return str(self.files[index][0])

    def content(self, index: int) -> Path:
        return self.files[index][0]

    def label(self, index: int) -> int | None:
        return self.files[index][1]


@dataclass(frozen=True)
class _View:
    """Another source's images, some of them or with a check."""

    source: Source

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The source's class names."""
        return self.source.label_names

    @property
    def labelled(self) -> bool:
        """Whether the source has labels."""
        return self.source.labelled

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of the source's files."""
        return self.source.paths

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Sample(_View):
    """Some images of another source, in its order."""

    chosen: frozenset[int]

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Item]:
        if isinstance(self.source, Direct):  # the other images need not be read
            for index in sorted(self.chosen):
                yield self.source[index]
            return
        for index, item in enumerate(self.source):
            if index in self.chosen:
                yield item


@dataclass(frozen=True)
class Shuffled(_View):
    """Some images of another source, in an order of their own; all of them wait in memory, undecoded."""

    order: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Item]:
        items = dict(zip(sorted(self.order), Sample(self.source, frozenset(self.order)), strict=True))
        return (items[index] for index in self.order)


@dataclass(frozen=True)
class CheckedLabels(_View):
    """A source whose labels are checked one by one: a wrong one would make an accuracy a lie."""

    classes: int

    def __iter__(self) -> Iterator[Item]:
        for item in self.source:
            if self.labelled:
                check_label(item.label, self.classes, item.where)
            yield item


def check_label(label: int | None, classes: int, where: str) -> None:
    """Refuse a label that is no class index of the network.

    Raises:
        DataError: that says where the image is.
    """
    if label is None or not 0 <= label < classes:
        raise DataError(
            f"label {label}, but the network has the classes 0..{classes - 1}",
            where=where,
            hint="use the data that the network was trained on",
        )
