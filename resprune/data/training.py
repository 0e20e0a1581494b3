"""Images to train on, one by one and augmented, and the part of them that is held out."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resprune.checkpoint import DEMO
from resprune.data.augmentation import Augmentation, Unchanged, augmentation, item_seed
from resprune.data.batches import Batches, check_sizes, default_batch_size, is_small, normalise, open_source
from resprune.data.identity import identify
from resprune.data.random_access import (
    InOrder,
    OnImages,
    Undecoded,
    check_encoded_size,
    decode_all,
    random_access,
    read_labels,
)
from resprune.errors import DataError, UsageError
from resprune.records import DataSummary, Preprocessing

__all__ = ["TrainingData", "TrainingImages", "batches_of", "normalise", "open_training"]

MOST_HELD_OUT = 5000
"""More images would not tell epochs apart any better, and are missed in training."""

Key = tuple[int, int]
"""Index of an image and epoch."""


@dataclass(frozen=True, eq=False)
class TrainingImages(Dataset[tuple[Tensor, int]]):
    """Augmented images: ``images[index, epoch]`` is bytes (c, h, w) and a class index.

    The augmentation is a function of (seed, epoch, index) and nothing else, so several processes see what
    one sees, in any order, and a run that is resumed sees what an uninterrupted one sees.

    Attributes:
        pixels: By index: bytes (h, w, c).
        labels: Class indices (n,), `NO_LABEL` where there are none.
        augment: What is done to an image.
        seed: Of all that is drawn.
    """

    pixels: Tensor | Undecoded
    labels: np.ndarray
    augment: Augmentation
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Key) -> tuple[Tensor, int]:
        """Return the image of a key (index, epoch).

        Raises:
            DataError: where it is damaged; see `refuse`.
        """
        number, epoch = index
        image = self.augment(self.pixels[number].permute(2, 0, 1), item_seed(self.seed, epoch, number))
        return image, int(self.labels[number])

    @property
    def plain(self) -> TrainingImages:
        """The same images as they are at inference, not augmented."""
        pixels = self.pixels
        if isinstance(pixels, Undecoded):
            pixels = replace(pixels, whole=False)
        return replace(self, pixels=pixels, augment=Unchanged())

    def refuse(self, index: Key, error: DataError) -> NoReturn:
        """Raise what is wrong with an image, and with how many others, which are all looked at.

        Args:
            index: Of the image, as `__getitem__` takes it.
            error: That it raised.

        Raises:
            DataError: always.
        """
        if isinstance(self.pixels, Undecoded):
            self.pixels.look_at_all(index[0])
        raise error


@dataclass(frozen=True)
class TrainingData:
    """What a network is trained on.

    Attributes:
        images: Augmented.
        held_out: Part of the same split, not augmented and not trained on, for choosing the epoch; or None.
        summary: Of the images that are trained on.
        labelled: Whether the images have labels.
    """

    images: TrainingImages
    held_out: Batches | None
    summary: DataSummary
    labelled: bool = True


def open_training(
    spec: str | Path,
    preprocessing: Preprocessing,
    classes: int,
    *,
    split: str | None = None,
    hold_out: float = 0.1,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    augment: str = "auto",
    auto_augment: str | None = None,
    needs_labels: bool = True,
    on_images: OnImages | None = None,
) -> TrainingData:
    """Open images to train a network on.

    Small images are decoded now, all of them; large ones when they are needed.

    Args:
        spec: See `resprune.data.open_data`.
        preprocessing: Of the network.
        classes: Number of the network's logits.
        split: By default ``train``, or all of what is not divided, or of the demo's data.
        hold_out: Fraction of the images that is held out, 0 <= hold_out < 1; at most `MOST_HELD_OUT` of them.
        samples: Use so many images only, those held out among them.
        seed: Of the sample, of the images held out, and of the augmentation.
        batch_size: Of the images held out; by default 128 small images or 32 large ones.
        augment: See `resprune.data.augmentation.augmentation`.
        auto_augment: See there.
        needs_labels: Whether images without labels are refused.
        on_images: Called while small images are decoded, with the number of those done since the last call.

    Raises:
        DataError: where images or labels cannot be read or do not fit the network, or none are left.
        UsageError: where the data has no split to train on, or an option is out of range.
    """
    if not 0 <= hold_out < 1:
        raise UsageError(
            f"hold_out must be at least 0 and less than 1, got {hold_out}", hint="0.1 is a tenth of the images"
        )
    check_sizes(samples, batch_size)
    if preprocessing.channels not in (1, 3):
        raise DataError(
            f"the network takes {preprocessing.channels} channels, images have 1 or 3",
            where=spec,
            hint="train a network that takes images",
        )
    change = augmentation(augment, auto_augment, preprocessing)
    order = ("validation" if str(spec) == DEMO else "train",)
    name, source = open_source(spec, classes, split, order, strict=True)
    if needs_labels and not source.labelled:
        raise DataError(
            "there are no labels to train with", where=spec, hint="use labelled images, such as class folders"
        )
    labels = read_labels(source, classes)
    trained, held = _divide(len(source), samples, hold_out, seed)
    if not trained:
        raise DataError(
            f"no images are left to train on, all {len(held)} are held out",
            where=spec,
            hint="hold out fewer, or none with --hold-out 0",
        )
    check_encoded_size(source, len(trained) + len(held), spec)
    images = random_access(source, trained, labels)
    if is_small(preprocessing):
        pixels = decode_all(images, preprocessing, spec, on_images)
    else:
        pixels = Undecoded(images, preprocessing, change.whole)
    dataset = TrainingImages(pixels, labels[trained], change, seed)
    try:
        _ = dataset[0, 0]  # data that does not fit is refused before anything is computed
    except DataError as error:
        dataset.refuse((0, 0), error)
    held_out, files = None, identify(source.paths)
    if held:
        kept = InOrder(random_access(source, held, labels), source.label_names, source.labelled, source.paths)
        summary = DataSummary(str(spec), name, len(held), preprocessing, *files)
        held_out = Batches(kept, summary, preprocessing, batch_size or default_batch_size(preprocessing))
    summary = DataSummary(str(spec), name, len(trained), preprocessing, *files)
    return TrainingData(dataset, held_out, summary, source.labelled)


def _divide(images: int, samples: int | None, hold_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the images to train on and of those held out, both ascending."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[:samples].tolist()
    held = min(MOST_HELD_OUT, max(1, round(hold_out * len(order)))) if hold_out else 0
    return sorted(order[held:]), sorted(order[:held])


def batches_of(
    images: TrainingImages, keys: Sequence[Sequence[Key]], workers: int = 0, *, pin: bool = False
) -> DataLoader[Any]:
    """Return a loader of one batch for each list of keys, in that order.

    Args:
        images: To take the batches from.
        keys: Lists of (index, epoch).
        workers: Processes that prepare batches; 0 prepares them here.
        pin: Keep them in memory from which a GPU copies while the program goes on.

    Returns:
        A loader of images (n, c, h, w), bytes in channels-last memory format, and class indices (n,) int64.
        It raises a `DataError` where an image is damaged, and draws nothing from torch's generators.
    """
    # The children share the decoded images with this process; other systems than Linux cannot fork safely.
    context = "fork" if workers and sys.platform == "linux" else None
    return _Loader(
        images,
        sampler=keys,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_leave_the_word_to_the_main_process,
        multiprocessing_context=context,
        generator=torch.Generator(),  # else each pass draws a number from the caller's
    )


@dataclass(frozen=True)
class _Refused:
    """In the place of a batch: an image that cannot be used, which a worker could not tell of in one line."""

    index: Key
    error: DataError


@dataclass(frozen=True, eq=False)
class _Lists(Dataset[Any]):
    """Whole batches, by their lists of keys."""

    images: TrainingImages

    def __getitem__(self, index: Sequence[Key]) -> tuple[Tensor, Tensor] | _Refused:
        pairs = []
        for key in index:
            try:
                pairs.append(self.images[key])
            except DataError as error:
                return _Refused(key, error)
        pixels = torch.stack([image.permute(1, 2, 0) for image, _ in pairs])
        return pixels.permute(0, 3, 1, 2), torch.tensor([label for _, label in pairs])


class _Loader(DataLoader[Any]):
    """A loader that raises the errors among its batches."""

    def __init__(self, images: TrainingImages, **options: Any) -> None:
        super().__init__(_Lists(images), **options)
        self._images = images

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for batch in super().__iter__():
            if isinstance(batch, _Refused):
                self._images.refuse(batch.index, batch.error)
            yield batch


def _leave_the_word_to_the_main_process(worker: int) -> None:
    """Let a worker end when it is told to, and without a word.

    Ctrl-C reaches all processes of a terminal at once. Where the main process is stopped while a worker hands
    it a batch, the thread that does so finds nobody there any more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.excepthook = _tell_but_of_lost_connections


def _tell_but_of_lost_connections(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, where)


def _as_it_is(batch: Any) -> Any:
    return batch
