"""A chain and a data spec become batches of the chain's input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from resprune import checkpoint
from resprune.chain import ResidualChain
from resprune.data import Batches, is_small, open_data
from resprune.errors import UsageError
from resprune.trajectory import OnBatch

Progress = Callable[[str, int], AbstractContextManager[OnBatch]]
"""Opened with a description and the number of images; its value is told of every batch done."""
Data = str | Path | Batches
"""A data spec, or batches that were opened before."""

SMALL_IMAGES, LARGE_IMAGES = 512, 128
"""How many images at most the order of removals is found on; a large one has many pixels."""


def silent(description: str, images: int) -> AbstractContextManager[OnBatch]:
    """Show no progress."""
    return nullcontext(lambda done: None)


def spec_for(chain: ResidualChain, data: Data | None) -> Data:
    """Return what to read for a chain: the demo brings its own data.

    Raises:
        UsageError: where nothing is named and the chain is another.
    """
    if data is None:
        if chain.origin.path != checkpoint.DEMO:
            raise UsageError("no data given", hint="name images with --data")
        return checkpoint.DEMO
    return data


def batches_for(chain: ResidualChain, data: Data | None, **options: Any) -> Batches:
    """Open a data spec with the chain's own preprocessing; see `resprune.data.open_data` for the options."""
    found = spec_for(chain, data)
    return (
        found if isinstance(found, Batches) else open_data(found, chain.preprocessing, chain.classes, **options)
    )


def calibration_images(batches: Batches) -> list[Tensor]:
    """Return the first batches (n, c, h, w): images that blocks are chosen on, labels left aside."""
    enough = SMALL_IMAGES if is_small(batches.preprocessing) else LARGE_IMAGES
    seen: list[Tensor] = []
    for images, _ in batches:
        seen.append(images)
        if sum(map(len, seen)) >= enough:
            break
    return seen
