"""A chain and a data spec become batches of the chain's input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from resprune import checkpoint
from resprune.chain import ResidualChain
from resprune.checks import check_chain, check_mode
from resprune.data import Batches, is_small, open_data
from resprune.errors import UsageError
from resprune.records import Origin, Preprocessing
from resprune.trajectory import OnBatch

Progress = Callable[[str, int], AbstractContextManager[OnBatch]]
"""Opened with a description and the number of images; its value is told of every batch done."""
Data = str | Path | Batches
"""A data spec, or batches that were opened before."""
D = TypeVar("D", bound=Data)


class Reader(Protocol):
    """What images are opened for: a chain, or a network of which less is known."""

    @property
    def origin(self) -> Origin: ...

    @property
    def preprocessing(self) -> Preprocessing | None: ...

    @property
    def classes(self) -> int | None: ...


SMALL_IMAGES, LARGE_IMAGES = 512, 128
"""How many images at most the order of removals is found on; a large one has many pixels."""


def silent(description: str, images: int) -> AbstractContextManager[OnBatch]:
    """Show no progress."""
    return nullcontext(lambda done: None)


def with_demo(data: D | None, *networks: Reader | None) -> D | str | None:
    """Return the data, or where none is named and the demo is among the networks, what the demo brings."""
    there = any(own is not None and own.origin.path == checkpoint.DEMO for own in networks)
    return checkpoint.DEMO if data is None and there else data


def spec_for(chain: Reader, data: Data | None) -> Data:
    """Return what to read for a chain.

    Raises:
        UsageError: where nothing is named, and the chain is not the demo.
    """
    found = with_demo(data, chain)
    if found is None:
        raise UsageError("no data given", hint="name images with --data")
    return found


def batches_for(chain: Reader, data: Data | None, **options: Any) -> Batches:
    """Open a data spec with the chain's own preprocessing; see `resprune.data.open_data` for the options.

    Raises:
        UsageError: where the network does not say how images become its input, no data is named, or the
            network is in training mode.
    """
    if isinstance(chain, ResidualChain):
        check_mode(chain.network, chain.origin.path)
    elif not hasattr(chain, "preprocessing"):
        check_chain(chain)
    found = spec_for(chain, data)
    if isinstance(found, Batches):
        return found
    if chain.preprocessing is None or chain.classes is None:
        raise UsageError(
            "the ONNX file does not say how images become its input",
            where=chain.origin.path,
            hint="compare it with the checkpoint that it was exported from, or export that with resprune",
        )
    return open_data(found, chain.preprocessing, chain.classes, **options)


def calibration_images(batches: Batches, seed: int) -> list[Tensor]:
    """Return batches (n, c, h, w), drawn by a seed: images that blocks are chosen on, labels left aside."""
    enough = SMALL_IMAGES if is_small(batches.preprocessing) else LARGE_IMAGES
    return [images for images, _ in batches.drawn(enough, seed)]
