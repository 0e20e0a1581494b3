"""Training images tell what a network from scratch must know: classes, channels, size, mean, deviation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from resprune.arguments import check_count
from resprune.checkpoint import DEMO
from resprune.data.batches import draw, open_source
from resprune.data.decoding import pixels_of
from resprune.data.sources import Item, Source
from resprune.errors import DataError
from resprune.records import Survey

SURVEYED = 10_000
"""Most images that size, mean and deviation are measured on."""

_TRAIN = "train"
_MODES = ("L", "RGB")
_MOST_CLASSES = 100_000  # larger labels are somebody's identifiers, and a classifier for them fills the memory


def survey(spec: str | Path, *, split: str | None = None, samples: int = SURVEYED, seed: int = 0) -> Survey:
    """Measure the training images of a data spec; all labels are read, and some of the images decoded.

    Args:
        spec: As `resprune.data.open_data` takes it. Data that is not divided into splits is training data;
            so is what the package ships under the name ``demo``.
        split: By default ``train``, and never another one.
        samples: Decode so many images at most, drawn by ``seed``.
        seed: Of the draw.

    Raises:
        DataError: where there is no training split, images cannot be read or differ in size or channels, or
            labels are missing or no class indices.
        UsageError: where the split does not exist.
    """
    name, source = open_source(spec, None, split, (_TRAIN,), strict=str(spec) != DEMO)
    if not source.labelled:
        raise DataError(
            "the images have no labels, and training needs them",
            where=spec,
            hint="give a folder of class folders, or Parquet files with a column 'label'",
        )
    check_count("samples", samples)
    chosen = draw(len(source), samples, seed)
    pixels, largest = _Pixels(), 0
    for index, item in enumerate(source):
        largest = max(largest, _label(item, source))
        if index in chosen:
            pixels.add(item)
    return _survey(str(spec), name, source, largest, pixels)


def _survey(spec: str, split: str | None, source: Source, largest: int, pixels: _Pixels) -> Survey:
    classes = largest + 1 if source.label_names is None else len(source.label_names)
    if classes < 2:
        raise DataError(
            "the images are all of one class", where=spec, hint="there is nothing to learn; give two or more"
        )
    height, width, channels = pixels.shape
    mean, std = pixels.moments()
    if min(std) == 0:
        raise DataError(
            f"channel {std.index(0)} has the same value in every pixel",
            where=spec,
            hint="check how the images were stored; grey ones need one channel only",
        )
    return Survey(spec, split, len(source), classes, channels, height, width, mean, std, pixels.images)


def _label(item: Item, source: Source) -> int:
    """Return an image's class index.

    Raises:
        DataError: where it has none, or one that there is no class for.
    """
    classes = _MOST_CLASSES if source.label_names is None else len(source.label_names)
    if item.label is None or not 0 <= item.label < classes:
        raise DataError(
            f"label {item.label} is no class index in 0..{classes - 1}",
            where=item.where,
            hint="store the labels as integers from 0",
        )
    return item.label


@dataclass
class _Pixels:
    """How often every value occurs in every channel; exact, and no larger for more images.

    Attributes:
        images: Number of images counted.
        shape: (h, w, c) of every image; empty before the first.
        counts: Of the byte values, (c, 256).
    """

    images: int = 0
    shape: tuple[int, ...] = ()
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 256), np.int64))

    def add(self, item: Item) -> None:
        """Count one image.

        Raises:
            DataError: where it cannot be read, or has another shape than those before it.
        """
        pixels = pixels_of(item, lambda image: _plain(image, item.where))
        if not self.shape:
            self.shape, self.counts = pixels.shape, np.zeros((pixels.shape[2], 256), np.int64)
        if pixels.shape != self.shape:
            raise DataError(
                f"{_size(pixels.shape)}, but other images have {_size(self.shape)}",
                where=item.where,
                hint="bring all images to one size and one number of channels",
            )
        self.images += 1
        for channel, counts in enumerate(self.counts):
            counts += np.bincount(pixels[:, :, channel].ravel(), minlength=256)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel, in units of the [0, 1] pixel range."""
        values = np.arange(256) / 255
        share = self.counts / self.counts.sum(axis=1, keepdims=True)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
        return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


def _plain(image: Image.Image, where: str) -> Image.Image:
    """Return a grey or RGB image as it is, and one with a palette in RGB.

    Raises:
        DataError: where it is none of these.
    """
    image = image.convert("RGB") if image.mode == "P" else image
    if image.mode not in _MODES:
        raise DataError(
            f"{len(image.getbands())} channels ({image.mode}), neither grey nor RGB",
            where=where,
            hint=f"convert the images to mode {' or '.join(_MODES)}",
        )
    return image


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width}x{height} pixels, {channels} channel{'' if channels == 1 else 's'}"
