"""Datasets that the library ``datasets`` reads: folders, what it saved to disk, and the hub's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from resprune.data.sources import Direct
from resprune.data.splits import canonical
from resprune.errors import DataError
from resprune.extras import from_extra

_IMAGES = ("image", "img")
_LABELS = ("label", "labels", "fine_label")
_SAVED = ("dataset_dict.json", "state.json")
"""One of them is where ``save_to_disk`` wrote."""


@dataclass(frozen=True, eq=False)
class HuggingFaceSource(Direct):
    """The rows of one split, images undecoded."""

    place: str
    rows: Any
    label_names: tuple[str, ...] | None
    labels: tuple[int | None, ...] | None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> str:
        return f"{self.place}, row {index}"

    def content(self, index: int) -> bytes | Path:
        (image,) = self.rows[index].values()
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise DataError("there is no image", where=self.where(index), hint="remove the row")
        return Path(image["path"]) if image["bytes"] is None else image["bytes"]

    def label(self, index: int) -> int | None:
        return None if self.labels is None else self.labels[index]


def splits(spec: str, rest: str) -> dict[str, Any]:
    """Return the splits of a dataset by their names, or all of it by an empty name.

    Args:
        spec: As the user wrote it.
        rest: Of the spec: a folder, or ``USER/NAME`` or ``USER/NAME:CONFIG`` on the hub.

    Raises:
        DataError: where there is nothing, or it cannot be read or fetched.
        UsageError: where the library is missing, or the name is none.
    """
    with from_extra("data", "a spec that begins with hfds/ needs"):
        import datasets
    folder = Path(rest).expanduser()
    if folder.exists():
        with _quiet(datasets):
            found = _loaded(datasets, spec, folder)
    else:
        name, _, config = rest.partition(":")
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise DataError(
                "no such folder, and no name of the hub",
                where=spec,
                hint="give a folder, or USER/NAME or USER/NAME:CONFIG",
            )
        hint = "check the name and the network, or write hfds/./FOLDER"
        with _told("no such folder, and not to be had from the hub", spec, hint):
            found = datasets.load_dataset(name, config or None)
    if isinstance(found, datasets.Dataset):
        return {"": found}
    return {canonical(str(name)): dataset for name, dataset in found.items()}


def _loaded(datasets: Any, spec: str, folder: Path) -> Any:
    hint = "give a folder of images or Parquet files, or one that save_to_disk wrote"
    with _told("datasets cannot read it", spec, hint):
        if any((folder / name).is_file() for name in _SAVED):
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(str(folder.resolve()))  # "./" could be taken for a builder's name


def open_split(spec: str, found: Mapping[str, Any], split: str | None) -> HuggingFaceSource:
    """Return the images of a split.

    Args:
        spec: As the user wrote it.
        found: What `splits` returned.
        split: One of its names, or None for data that is not divided.

    Raises:
        DataError: where there is no column of images, or labels are no class indices.
    """
    import datasets

    place = spec if split is None else f"{spec}, {split}"
    dataset = found[split or ""].with_format(None)
    features = dataset.features
    kinds = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    image = next((name for name in (*_IMAGES, *kinds) if name in features), None)
    if image is None:
        raise DataError(
            f"no column {' or '.join(map(repr, _IMAGES))} (found {', '.join([*features][:6])})",
            where=place,
            hint="give a dataset of images",
        )
    with _told(f"the column {image!r} holds no images", place, "store encoded images"):
        rows = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    label = next((name for name in _LABELS if name in features), None)
    if label is None:
        return HuggingFaceSource(place, rows, None, None)
    feature = features[label]
    if not pa.types.is_integer(features.arrow_schema.field(label).type):
        raise DataError(
            f"the column {label!r} holds {getattr(feature, 'dtype', feature)}, not class indices",
            where=place,
            hint="store the labels as integers from 0",
        )
    names = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return HuggingFaceSource(place, rows, names, tuple(dataset[label][:]))


@contextmanager
def _told(what: str, where: str, hint: str) -> Iterator[None]:
    """Raise what the library raises as a `DataError`; its errors have no common class."""
    try:
        yield
    except Exception as error:
        raise DataError(f"{what} ({_reason(error)})", where=where, hint=hint) from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Draw no progress bars: they are not this program's."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _reason(error: Exception) -> str:
    """Return the first line of what went wrong at first."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
