"""What runs out of memory is done again, with half as many images at once."""

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
_NO_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "out of memory",  # the drivers of CUDA and HIP, and torch on MPS and XPU
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, hipBLAS and their kin, which have work space of their own
    "ALLOCATION_FAILED",  # newer cuDNN
    "unable to find an engine",  # cuDNN, where no convolution's work space fits
)
"""How memory that ends is told in errors that have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory left, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def halving(
    attempt: Callable[[int], T],
    size: int,
    task: str,
    *,
    least: int = 1,
    sized: str = "batches of {}",
    note: str = "",
) -> T:
    """Return what an attempt gives, halving its number of images at once until it fits into memory.

    Args:
        attempt: Given a number of images at once; begins anew with every call.
        size: To try first.
        task: A word for it, in messages.
        least: Fewer are not tried: the error is raised.
        sized: What there was no memory for, for the message.
        note: What else is different then, for the message.
    """
    while True:
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or size // 2 < least:
                raise
        # Not in the handler, whose error keeps the tensors of the attempt alive.
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
        _log.warning("%s: out of memory with %s, trying %d%s", task, sized.format(size), size // 2, note)
        size //= 2


def pass_over(
    batches: Batches,
    measure: Callable[[Batches, OnBatch], T],
    progress: Progress,
    task: str,
) -> T:
    """Return what a pass over images gives.

    Args:
        batches: Their size is halved, down to one, until the pass fits into memory.
        measure: The pass; begins anew with every call, and tells of its progress.
        progress: Opened with the task and the number of images.
        task: A word for it.
    """

    def attempt(size: int) -> T:
        with progress(task, batches.summary.samples) as on_batch:
            return measure(replace(batches, batch_size=size), on_batch)

    return halving(attempt, max(1, min(batches.batch_size, batches.summary.samples)), task)
