"""A pass over images that runs out of memory is made again, with half as many of them at once."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from resprune.data import Batches
from resprune.reading import Progress
from resprune.trajectory import OnBatch

T = TypeVar("T")
_log = logging.getLogger("resprune")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory left, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's words on a CPU


def pass_over(
    batches: Batches,
    measure: Callable[[Batches, OnBatch], T],
    progress: Progress,
    task: str,
    images: int | None = None,
) -> T:
    """Return what a pass over images gives.

    Args:
        batches: Their size is halved, down to one, until the pass fits into memory.
        measure: The pass; begins anew with every call, and tells of its progress.
        progress: Opened with the task and the number of images.
        task: A word for it.
        images: How many of them the pass looks at, if not at all.
    """
    while True:
        try:
            with progress(task, batches.summary.samples if images is None else images) as on_batch:
                return measure(batches, on_batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batches.batch_size == 1:
                raise
        # Not in the handler, whose error keeps the tensors of the pass alive.
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
        size = min(batches.batch_size, batches.summary.samples)
        batches = replace(batches, batch_size=max(1, size // 2))
        _log.warning("%s: out of memory with batches of %d, trying %d", task, size, batches.batch_size)
