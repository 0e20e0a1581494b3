"""How far a network's outputs are from the original's: Kullback-Leibler divergence of class probabilities."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def kl(original: Tensor, logits: Tensor) -> float:
    """Return the sum over images of ``KL(softmax(original) || softmax(logits))`` in nats, in double precision.

    Args:
        original: Logits (n, classes).
        logits: The same of another network; NaN where one is not finite.
    """
    p, q = original.double().log_softmax(1), logits.double().log_softmax(1)
    return float(F.kl_div(q, p, reduction="sum", log_target=True))
