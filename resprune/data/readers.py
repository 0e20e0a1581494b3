"""Data of other libraries, under the prefixes that timm gives them: ``torch/``, ``hfds/`` and ``wds/``.

- ``torch/NAME:ROOT``: torchvision's data sets, as they lie in a folder; the current one where none is named.
- ``hfds/FOLDER``, ``hfds/USER/NAME`` or ``hfds/USER/NAME:CONFIG``: see `resprune.data.hugging_face`.
- ``wds/FOLDER``: shards; see `resprune.data.shards`.

The prefix wins over a folder of that name, which is ``./torch``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resprune.data import hugging_face, shards
from resprune.data.finding import find_source
from resprune.data.sources import Direct, Source
from resprune.data.splits import choose_split
from resprune.errors import DataError, UsageError

PREFIXES = ("torch/", "hfds/", "wds/")

_CLASSES = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "kmnist": "KMNIST",
    "fashion_mnist": "FashionMNIST",
    "qmnist": "QMNIST",
}
_FOLDERS = ("imagenet", "image_folder", "folder")
"""What lies in class folders anyway, and is read as they are."""


def find(
    spec: str, split: str | None, order: Sequence[str], *, strict: bool = False
) -> tuple[str | None, Source]:
    """Return the split's name and its images; see `resprune.data.batches.open_source`.

    Args:
        spec: That begins with one of `PREFIXES`.
        split: What the user asked for.
        order: In which a split is looked for otherwise.
        strict: Whether data that has splits, but none of ``order``, is refused.

    Raises:
        DataError: where nothing can be read.
        UsageError: where the name, the split, or what reads the data does not exist.
    """
    prefix, _, rest = spec.partition("/")
    if prefix == "torch":
        return _torchvision(spec, rest, split, order, strict)
    place = {"hfds": "a folder or the name of a dataset", "wds": "a folder of shards"}[prefix]
    if not rest:
        raise UsageError("nothing is named", where=spec, hint=f"give {place}, such as {prefix}/./images")
    reader = hugging_face if prefix == "hfds" else shards
    splits = reader.splits(spec, rest)
    name = choose_split([name for name in splits if name], spec, split, order, strict=strict)
    return name, reader.open_split(spec, splits, name)


@dataclass(frozen=True, eq=False)
class TorchvisionSource(Direct):
    """One of torchvision's data sets that keep their images in memory."""

    place: str
    dataset: Any
    label_names: tuple[str, ...] | None
    labels: np.ndarray

    @property
    def labelled(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, index: int) -> str:
        return f"{self.place}, image {index}"

    def content(self, index: int) -> Image.Image:
        return self.dataset[index][0]

    def label(self, index: int) -> int:
        return int(self.labels[index])


def _torchvision(
    spec: str, rest: str, split: str | None, order: Sequence[str], strict: bool
) -> tuple[str | None, Source]:
    import torchvision.datasets

    name, _, folder = rest.partition(":")
    if name not in _CLASSES and name not in _FOLDERS:
        raise UsageError(
            f"no data set {name!r} of torchvision is read",
            where=spec,
            hint=f"choose from {', '.join((*_CLASSES, *_FOLDERS))}, or write ./{spec} for a folder",
        )
    root = Path(folder or ".").expanduser()
    if not root.is_dir():
        raise DataError("no such folder", where=spec, hint=f"write torch/{name}:FOLDER")
    if name in _FOLDERS:
        return find_source(root, spec, split, order, strict=strict)
    chosen = choose_split(("test", "train"), spec, split, order, strict=strict)
    kind = _CLASSES[name]
    try:
        dataset = getattr(torchvision.datasets, kind)(root, train=chosen == "train", download=False)
    except Exception as error:  # damaged files make it stumble over anything
        raise DataError(
            f"torchvision finds no readable {kind} in {root}",
            where=spec,
            hint=f"torchvision.datasets.{kind}({str(root)!r}, download=True) fetches it; resprune does not",
        ) from error
    labels = np.asarray(dataset.targets)
    labels = labels if labels.ndim == 1 else labels[:, 0]  # QMNIST says more of an image than its class
    return chosen, TorchvisionSource(f"{spec}, {chosen}", dataset, tuple(dataset.classes), labels)
