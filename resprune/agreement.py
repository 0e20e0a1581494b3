"""Two networks' outputs on the same images: where they agree, how far they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from resprune.divergence import kl
from resprune.errors import ArchitectureError, DataError
from resprune.judging import outcomes_of, right_and_wrong
from resprune.records import Disagreement, Likeness
from resprune.trajectory import OnBatch, Tally

Network = Callable[[Tensor], Tensor]
Triple = tuple[Tensor, Tensor, Tensor | None]
"""The same images (n, c, h, w) as the input of either network, and class indices (n,) or None."""


@torch.inference_mode()
def likeness(
    first: Network,
    second: Network,
    batches: Iterable[Triple],
    *,
    limit: int,
    on_batch: OnBatch | None = None,
) -> Likeness:
    """Compare the logits of two networks in one pass.

    Args:
        first: Gives logits (n, classes).
        second: Likewise, as many.
        batches: On the device of the network that they are for.
        limit: List at most so many disagreements.
        on_batch: Told of progress.

    Raises:
        DataError: where there are no images.
        ArchitectureError: where a logit is not finite, or the two have other classes.
    """
    tally = Tally(2)
    same = seen = 0
    largest = difference = divergence = 0.0
    more = more_squared = 0.0  # sums of the second's losses minus the first's
    hits = torch.zeros(2, 2, dtype=torch.int64)
    listed: list[Disagreement] = []
    for own, other, labels in batches:
        a, b = first(own).cpu(), second(other).cpu()
        if a.shape != b.shape or a.ndim != 2:
            raise ArchitectureError(f"the networks give logits {tuple(a.shape)} and {tuple(b.shape)}")
        targets = None if labels is None else labels.cpu()
        tally.add(torch.stack([a, b], dim=1), targets)
        largest = max(largest, float(a.abs().max()), float(b.abs().max()))
        difference = max(difference, float((a - b).abs().max()))
        divergence += kl(a, b)
        top_a, top_b = a.argmax(1), b.argmax(1)
        same += int((top_a == top_b).sum())
        if targets is not None:
            hits += right_and_wrong(a, b, targets)
            loss_a, loss_b = (F.cross_entropy(own.double(), targets, reduction="none") for own in (a, b))
            added = loss_b - loss_a
            more, more_squared = more + float(added.sum()), more_squared + float(added.square().sum())
        for row in (top_a != top_b).nonzero()[:, 0].tolist()[: limit - len(listed)]:
            label = None if targets is None else int(targets[row])
            listed.append(Disagreement(seen + row, "", label, int(top_a[row]), int(top_b[row])))
        seen += len(a)
        if on_batch is not None:
            on_batch(len(a))
    if seen == 0:
        raise DataError("no images to compare on")
    return Likeness(
        samples=seen,
        agreement=same / seen,
        max_abs_difference=difference,
        max_rel_difference=difference / largest if largest else 0.0,
        divergence=max(divergence / seen, 0.0),  # rounding can leave -1e-18
        loss_deviation=_deviation(more, more_squared, seen) if tally.labelled and seen > 1 else None,
        first=tally.result(0),
        second=tally.result(1),
        outcomes=outcomes_of(hits) if tally.labelled else None,
        differing=seen - same,
        disagreements=tuple(listed),
    )


def _deviation(total: float, squares: float, count: int) -> float:
    """Return the standard deviation of values whose sum and sum of squares are given."""
    return math.sqrt(max(squares - total * total / count, 0.0) / (count - 1))
