"""A data spec becomes batches of network input, streamed: nothing grows with the number of images."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from resprune.checkpoint import DEMO, DEMO_FOLDER
from resprune.errors import DataError, UsageError
from resprune.records import DataSummary, Preprocessing

VALIDATION_FIRST = ("validation", "test", "train")
"""Order in which a split is looked for where the user names none, for analysis."""
TEST_FIRST = ("test", "validation", "train")
"""The same for the last line of a report."""
CHOICE_FIRST = ("validation", "train", "test")
"""The same for choices, which the test images must not make."""

_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}
_LAYOUTS = "give a folder of class folders, a folder of images, or Parquet files"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}


@dataclass(frozen=True)
class Item:
    """One undecoded image: where it is, how to open it, and its class index, if it has one."""

    where: str
    content: bytes | Path
    label: int | None


class Source(Protocol):
    """Images in a fixed order that can be read any number of times."""

    @property
    def label_names(self) -> tuple[str, ...] | None: ...

    @property
    def labelled(self) -> bool: ...

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
                raise _unreadable(path, error) from error
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

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Item]:
        columns = ["image", "label"] if self.labelled else ["image"]
        for path in self.files:
            for row, record in enumerate(_records(path, columns)):
                yield self._item(path, row, record)

    def _item(self, path: Path, row: int, record: dict) -> Item:
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
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())
    return DataError(f"no readable Parquet file ({reason})", where=path, hint="download or write it again")


@dataclass(frozen=True)
class FileSource:
    """Image files with their class indices."""

    files: tuple[tuple[Path, int | None], ...]
    label_names: tuple[str, ...] | None

    @property
    def labelled(self) -> bool:
        """Whether the files were found in class folders."""
        return self.label_names is not None

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Item]:
        for path, label in self.files:
            yield Item(str(path), path, label)


@dataclass(frozen=True)
class Sample:
    """Some images of another source, in its order."""

    source: Source
    chosen: frozenset[int]

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The source's class names."""
        return self.source.label_names

    @property
    def labelled(self) -> bool:
        """Whether the source has labels."""
        return self.source.labelled

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[Item]:
        for index, item in enumerate(self.source):
            if index in self.chosen:
                yield item


@dataclass(frozen=True)
class Batches:
    """Batches (images (n, c, h, w) float32, labels (n,) int64 or None); can be iterated any number of times."""

    source: Source
    summary: DataSummary
    preprocessing: Preprocessing
    batch_size: int

    @property
    def labelled(self) -> bool:
        """Whether the batches carry labels."""
        return self.source.labelled

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        pixels: list[np.ndarray] = []
        labels: list[int] = []
        for item in self.source:
            pixels.append(_decode(item, self.preprocessing))
            if item.label is not None:
                labels.append(item.label)
            if len(pixels) == self.batch_size:
                yield self._batch(pixels, labels)
                pixels, labels = [], []
        if pixels:
            yield self._batch(pixels, labels)

    def _batch(self, pixels: list[np.ndarray], labels: list[int]) -> tuple[Tensor, Tensor | None]:
        recipe = self.preprocessing
        # (n, h, w, c) bytes seen as (n, c, h, w) are channels-last, the format convolutions like best.
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
        images.sub_(torch.tensor(recipe.mean).view(1, -1, 1, 1))
        images.div_(torch.tensor(recipe.std).view(1, -1, 1, 1))
        return images, torch.tensor(labels) if self.labelled else None


def open_data(
    spec: str | Path,
    preprocessing: Preprocessing,
    classes: int,
    *,
    split: str | None = None,
    order: Sequence[str] = VALIDATION_FIRST,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Batches:
    """Open images for a network.

    Args:
        spec: Folder with one folder a class (below ``train/``, ``validation/``, ``test/`` or not), flat
            folder of images, file or folder of Parquet in the Hugging Face image layout, or ``demo``.
        preprocessing: Of the network.
        classes: Number of the network's logits.
        split: Name of the split; by default the first of ``order`` that is there.
        order: See `VALIDATION_FIRST`, `TEST_FIRST`, `CHOICE_FIRST`.
        samples: Read so many images only, drawn by ``seed`` and kept in order.
        seed: Of the draw.
        batch_size: By default 128 small images or 32 large ones.

    Raises:
        DataError: where nothing can be read, or it does not fit the network.
        UsageError: where the split does not exist.
    """
    root = DEMO_FOLDER / "validation.parquet" if str(spec) == DEMO else Path(spec)
    try:
        name, source = _find(root, str(spec), split, order)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=spec, hint="check its permissions"
        ) from error
    if len(source) == 0:
        raise DataError("no images found", where=spec, hint=_LAYOUTS)
    if source.label_names is not None and len(source.label_names) != classes:
        raise DataError(
            f"the labels have {len(source.label_names)} classes, the network {classes}",
            where=spec,
            hint="use the data that the network was trained on",
        )
    if samples is not None and samples < len(source):
        if samples < 1:
            raise UsageError(f"samples must be at least 1, got {samples}")
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(source), generator=generator)[:samples].tolist()
        source = Sample(source, frozenset(chosen))
    size = batch_size or (128 if preprocessing.height * preprocessing.width <= 64 * 64 else 32)
    summary = DataSummary(str(spec), name, len(source))
    _check_first(source, preprocessing)
    return Batches(_CheckedLabels(source, classes), summary, preprocessing, size)


def without_labels(batches: Batches) -> Batches:
    """Return the same images with their labels left out."""
    return replace(batches, source=_Unlabelled(batches.source))


def named_splits(spec: str | Path) -> tuple[str, ...]:
    """Return the names of the splits at a spec; empty where it is not divided."""
    root = DEMO_FOLDER / "validation.parquet" if str(spec) == DEMO else Path(spec)
    return tuple(_splits(root))


@dataclass(frozen=True)
class _CheckedLabels:
    """A source whose labels are checked one by one: a wrong one would make an accuracy a lie."""

    source: Source
    classes: int

    @property
    def label_names(self) -> tuple[str, ...] | None:
        return self.source.label_names

    @property
    def labelled(self) -> bool:
        return self.source.labelled

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Item]:
        for item in self.source:
            if self.labelled and (item.label is None or not 0 <= item.label < self.classes):
                raise DataError(
                    f"label {item.label}, but the network has the classes 0..{self.classes - 1}",
                    where=item.where,
                    hint="use the data that the network was trained on",
                )
            yield item


@dataclass(frozen=True)
class _Unlabelled:
    source: Source
    label_names: None = None
    labelled: bool = False

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Item]:
        return (replace(item, label=None) for item in self.source)


def _find(root: Path, spec: str, split: str | None, order: Sequence[str]) -> tuple[str | None, Source]:
    """Return the split's name and its images."""
    if not root.exists():
        raise DataError("no such file or folder", where=spec, hint=_LAYOUTS)
    splits = _splits(root)
    if not splits:
        if split is not None:
            raise UsageError(
                f"there is no split {split!r}, the data is not divided", where=spec, hint="leave --split out"
            )
        return None, _open_plain(root, spec)
    wanted = None if split is None else _ALIASES.get(split, split)
    name = wanted if split is not None else next((s for s in order if s in splits), next(iter(splits)))
    if name not in splits:
        raise UsageError(
            f"there is no split {split!r}", where=spec, hint=f"choose from {', '.join(sorted(splits))}"
        )
    return name, _open_plain(splits[name], spec)


def _splits(root: Path) -> dict[str, Path | tuple[Path, ...]]:
    """Return the splits at a path: folders named after one, or Parquet files whose names begin with one."""
    if root.is_file():
        match = re.match(r"[A-Za-z]+", root.name)
        known = match is not None and root.suffix == ".parquet"
        name = _ALIASES.get(match[0], match[0]) if known and match is not None else ""
        return {name: (root,)} if name in VALIDATION_FIRST else {}
    files: dict[str, list[Path]] = {}
    for path in sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")]):
        match = re.match(r"[A-Za-z]+", path.name)
        if match is not None:
            files.setdefault(_ALIASES.get(match[0], match[0]), []).append(path)
    if files:
        return {name: tuple(paths) for name, paths in files.items()}
    folders = {_ALIASES.get(f.name, f.name): f for f in sorted(root.iterdir()) if f.is_dir()}
    return {name: folder for name, folder in folders.items() if name in VALIDATION_FIRST}


def _open_plain(place: Path | tuple[Path, ...], spec: str) -> Source:
    """Open what is not divided into splits."""
    if isinstance(place, tuple):
        return ParquetSource.open(place)
    if place.is_file():
        if place.suffix != ".parquet":
            raise DataError(
                f"{place.suffix or 'a file'} is no data that can be read", where=spec, hint=_LAYOUTS
            )
        return ParquetSource.open((place,))
    parquet = sorted(place.glob("*.parquet"))
    if parquet:
        return ParquetSource.open(parquet)
    folders = sorted(entry for entry in place.iterdir() if entry.is_dir())
    if not folders:
        return FileSource(tuple((path, None) for path in _images(place)), None)
    files = [(path, label) for label, folder in enumerate(folders) for path in _images(folder)]
    return FileSource(tuple(files), tuple(folder.name for folder in folders))


def _images(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Return the class names of the Hugging Face metadata, or None where there are none."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])["info"]
        return tuple(info["features"]["label"]["names"])
    except (KeyError, ValueError, TypeError):
        return None


def _check_first(source: Source, preprocessing: Preprocessing) -> None:
    """Decode one image now, so that data that does not fit is refused before anything is computed."""
    _decode(next(iter(source)), preprocessing)


def _decode(item: Item, recipe: Preprocessing) -> np.ndarray:
    """Return (h, w, c) bytes of the network's input size."""
    try:
        opened = Image.open(io.BytesIO(item.content) if isinstance(item.content, bytes) else item.content)
        with opened as image:
            image = _fit(image, item.where, recipe)
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(
            f"the image cannot be decoded ({reason})", where=item.where, hint="replace or remove it"
        ) from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _fit(image: Image.Image, where: str, recipe: Preprocessing) -> Image.Image:
    """Bring an image to the input's size and channels, or refuse it."""
    mode = "L" if recipe.channels == 1 else "RGB"
    if recipe.resize is not None:
        # Photographs come grey, with alpha or in CMYK; the usual recipes convert them without a word.
        interpolation = InterpolationMode(recipe.interpolation)
        photograph: Any = image.convert(mode)  # torchvision's annotations know tensors only
        scaled = TF.resize(photograph, [recipe.resize], interpolation)
        return cast("Image.Image", TF.center_crop(scaled, [recipe.height, recipe.width]))
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode != mode or image.size != (recipe.width, recipe.height):
        got = f"{image.width}x{image.height} pixels, {len(image.getbands())} channels ({image.mode})"
        raise DataError(
            f"the network takes {recipe.width}x{recipe.height} pixels, {recipe.channels} channels; got {got}",
            where=where,
            hint="use the data that the network was trained on",
        )
    return image
