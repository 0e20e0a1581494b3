"""How far a network's outputs are from the original's: divergence and distance of class probabilities."""

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


def total_variation(original: Tensor, logits: Tensor) -> float:
    """Return the sum over images of ``||softmax(original) - softmax(logits)||_1 / 2``, 0 to 1 on each.

    That is how much probability has moved from some classes to others. It is close to the share of images
    that are classified otherwise, of which a divergence tells little once outputs are sure and wrong.

    Args:
        original: Logits (n, classes).
        logits: The same of another network; NaN where one is not finite.
    """
    p, q = original.double().softmax(1), logits.double().softmax(1)
    return float((p - q).abs().sum()) / 2
