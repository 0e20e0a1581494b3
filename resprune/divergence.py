"""How far a network's outputs are from the original's: Kullback-Leibler divergence of class probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from resprune.chain import ResidualChain
from resprune.errors import DataError
from resprune.trajectory import Batch, OnBatch


def kl(original: Tensor, logits: Tensor) -> float:
    """Return the sum over images of ``KL(softmax(original) || softmax(logits))`` in nats, in double precision.

    Args:
        original: Logits (n, classes).
        logits: The same of another network; NaN where one is not finite.
    """
    p, q = original.double().log_softmax(1), logits.double().log_softmax(1)
    return float(F.kl_div(q, p, reduction="sum", log_target=True))


@torch.inference_mode()
def divergence(
    chain: ResidualChain, other: ResidualChain, batches: Iterable[Batch], *, on_batch: OnBatch | None = None
) -> float:
    """Return the mean over images of ``KL(softmax(yhat) || softmax(yhat'))`` in nats, yhat the chain's logits.

    Raises:
        DataError: where there are no images.
    """
    total, samples = 0.0, 0
    for images, _ in batches:
        images = images.to(chain.device, memory_format=torch.channels_last)
        total += kl(chain(images), other(images))
        samples += len(images)
        if on_batch is not None:
            on_batch(len(images))
    if not samples:
        raise DataError("no images to compare two networks on")
    return total / samples
