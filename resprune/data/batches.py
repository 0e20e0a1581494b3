"""A data spec becomes batches of network input, streamed: nothing grows with the number of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resprune.arguments import check_count
from resprune.checkpoint import DEMO, DEMO_FOLDER
from resprune.data import readers
from resprune.data.decoding import decode_or_count
from resprune.data.finding import LAYOUTS, find_source
from resprune.data.identity import identify
from resprune.data.sources import CheckedLabels, Sample, Shuffled, Source
from resprune.data.splits import VALIDATION_FIRST
from resprune.errors import DataError
from resprune.records import DataSummary, Preprocessing


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

    def divide(self, first: int, seed: int) -> tuple[Batches, Batches]:
        """Return so many images, drawn by a seed, and all others."""
        chosen = draw(len(self.source), first, seed)
        others = frozenset(range(len(self.source))) - chosen
        return self._some(chosen), self._some(others)

    def with_others(self, others: Batches) -> DataSummary:
        """Return the summary of these images and others of the same split together."""
        return replace(self.summary, samples=self.summary.samples + others.summary.samples)

    def drawn(self, count: int, seed: int) -> Batches:
        """Return so many images, or all where there are fewer, drawn by a seed and in the order drawn.

        Class folders are sorted by class: neither their first images nor their batches are a sample of all.
        """
        generator = torch.Generator().manual_seed(seed)
        order = tuple(torch.randperm(len(self.source), generator=generator)[:count].tolist())
        summary = replace(self.summary, samples=len(order))
        return replace(self, source=Shuffled(self.source, order), summary=summary)

    def first(self, count: int) -> Tensor:
        """Return the first images (count, c, h, w), or all where there are fewer."""
        return next(iter(replace(self, batch_size=count)))[0]

    def _some(self, indices: frozenset[int]) -> Batches:
        summary = replace(self.summary, samples=len(indices))
        return replace(self, source=Sample(self.source, indices), summary=summary)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        pixels: list[np.ndarray] = []
        labels: list[int] = []
        items = iter(self.source)
        for item in items:
            pixels.append(decode_or_count(item, items, self.preprocessing, len(self.source)))
            if item.label is not None:
                labels.append(item.label)
            if len(pixels) == self.batch_size:
                yield self._batch(pixels, labels)
                pixels, labels = [], []
        if pixels:
            yield self._batch(pixels, labels)

    def _batch(self, pixels: list[np.ndarray], labels: list[int]) -> tuple[Tensor, Tensor | None]:
        # (n, h, w, c) bytes seen as (n, c, h, w) are channels-last, the format convolutions like best.
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
        return normalise(images, self.preprocessing), torch.tensor(labels) if self.labelled else None


def is_small(recipe: Preprocessing) -> bool:
    """Whether images are of the size of CIFAR's or MNIST's, or little larger, and taken as they are."""
    return recipe.resize is None and recipe.height * recipe.width <= 64 * 64


def default_batch_size(recipe: Preprocessing) -> int:
    """Return 128 for small images and 32 for large ones."""
    return 128 if recipe.height * recipe.width <= 64 * 64 else 32


def normalise(images: Tensor, recipe: Preprocessing) -> Tensor:
    """Return the network's input, (x / 255 - mean) / std.

    Args:
        images: Bytes (n, c, h, w), on any device and in any memory format, which are kept.
        recipe: Of the network.
    """
    largest, mean, std = (
        _channels(tuple(values), images.device) for values in ((255.0,), recipe.mean, recipe.std)
    )
    # A GPU multiplies by the reciprocal of a number, which rounds otherwise; a tensor is divided by everywhere.
    return images.float().div_(largest).sub_(mean).div_(std)


@lru_cache(maxsize=32)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one number for each channel (1, c, 1, 1), kept, as a GPU would wait for every copy of them."""
    with torch.inference_mode(mode=False):  # training may come upon what an evaluation made
        return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


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
            folder of images, file or folder of Parquet in the Hugging Face image layout, or ``demo``. A string,
            not a path, that begins with ``torch/``, ``hfds/`` or ``wds/``: see `resprune.data.readers`.
        preprocessing: Of the network.
        classes: Number of the network's logits.
        split: Name of the split; by default the first of ``order`` that is there.
        order: See `VALIDATION_FIRST`, `TEST_FIRST`, `CHOICE_FIRST`.
        samples: Read so many images only, drawn by ``seed`` and kept in order.
        seed: Of the draw.
        batch_size: By default 128 small images or 32 large ones.

    Raises:
        DataError: where nothing can be read, or it does not fit the network.
        UsageError: where the split does not exist, or a number is out of range.
    """
    check_sizes(samples, batch_size)
    name, source = open_source(spec, classes, split, order)
    if samples is not None and samples < len(source):
        source = Sample(source, draw(len(source), samples, seed))
    size = batch_size or default_batch_size(preprocessing)
    _check_first(source, preprocessing)
    summary = DataSummary(str(spec), name, len(source), preprocessing, *identify(source.paths))
    return Batches(CheckedLabels(source, classes), summary, preprocessing, size)


def check_sizes(samples: int | None, batch_size: int | None) -> None:
    """Refuse numbers of images that are none.

    Raises:
        UsageError: names the argument.
    """
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value is not None:
            check_count(name, value)


def open_source(
    spec: str | Path, classes: int | None, split: str | None, order: Sequence[str], *, strict: bool = False
) -> tuple[str | None, Source]:
    """Return the name of a split and its images, whose classes are as many as the network's if that is known.

    Where it is ``strict``, data that has splits, but none of ``order``, is refused unless ``split`` names one.
    All else is as in `open_data`.

    Raises:
        DataError, UsageError: as `open_data` does.
    """
    root = DEMO_FOLDER / "validation.parquet" if str(spec) == DEMO else Path(spec)
    try:
        if isinstance(spec, str) and spec.startswith(readers.PREFIXES):
            name, source = readers.find(spec, split, order, strict=strict)
        else:
            name, source = find_source(root, str(spec), split, order, strict=strict)
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=spec, hint="check its permissions"
        ) from error
    if len(source) == 0:
        place = "" if name is None else f" in the split {name!r}"
        raise DataError(f"no images found{place}", where=spec, hint=LAYOUTS)
    if classes is not None and source.label_names is not None and len(source.label_names) != classes:
        raise DataError(
            f"the labels have {len(source.label_names)} classes, the network {classes}",
            where=spec,
            hint="use the data that the network was trained on",
        )
    return name, source


def draw(count: int, samples: int, seed: int) -> frozenset[int]:
    """Return ``samples`` indices of ``count``, or all where there are fewer, drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    return frozenset(torch.randperm(count, generator=generator)[:samples].tolist())


def _check_first(source: Source, preprocessing: Preprocessing) -> None:
    """Decode one image now, so that data that does not fit is refused before anything is computed."""
    items = iter(source)
    decode_or_count(next(items), items, preprocessing, len(source))
