"""A pruned network is compared with the one it came from; Lemma 2 is checked, never assumed."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from resprune.chain import ResidualChain
from resprune.checks import full_float32
from resprune.errors import VerificationError
from resprune.exits import SkipChainExits
from resprune.records import Evaluation, PrunePlan, Verification
from resprune.surgery import skip_blocks
from resprune.trajectory import Batch, OnBatch, Tally

RELATIVE_TOLERANCE = 1e-4
"""Largest difference of two logits that counts as rounding, relative to the largest logit."""


@full_float32()
@torch.inference_mode()
def verify(
    chain: ResidualChain,
    pruned: ResidualChain,
    plan: PrunePlan,
    batches: Iterable[Batch],
    *,
    on_batch: OnBatch | None = None,
) -> tuple[Evaluation, Evaluation, Verification]:
    """Return the figures before and after, and the difference between the pruned network and exit M.

    For a plan that is no tail the reference is the whole network, removed blocks skipped on the fly.

    Raises:
        VerificationError: where the difference is more than rounding.
    """
    exits = SkipChainExits(chain)
    tally = Tally(2)
    difference = largest = 0.0
    for images, labels in batches:
        images = images.to(chain.device, memory_format=torch.channels_last)
        if plan.is_tail:
            logits = exits(images)
            before, reference = logits[:, -1], logits[:, plan.depth]
        else:
            before, reference = chain(images), skip_blocks(chain, images, plan.removed)
        after = pruned(images)
        tally.add(torch.stack([before, after], dim=1), None if labels is None else labels.to(chain.device))
        if not bool(torch.isfinite(reference).all()):
            raise VerificationError("the origin's exit is not finite", where=chain.origin.path)
        difference = max(difference, float((after - reference).abs().max()))
        largest = max(largest, float(reference.abs().max()))
        if on_batch is not None:
            on_batch(len(images))
    against = f"exit {plan.depth} of the origin" if plan.is_tail else "the origin, removed branches left out"
    tolerance = RELATIVE_TOLERANCE * largest
    if not difference <= tolerance:
        raise VerificationError(
            f"the pruned network's logits differ from {against} by {difference:.3g}, more than {tolerance:.3g}",
            where=chain.origin.path,
            hint="nothing was written; please report this with the checkpoint",
        )
    return tally.result(0), tally.result(1), Verification(difference, against, tolerance)
