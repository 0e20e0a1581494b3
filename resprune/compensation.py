"""What removed blocks did, fitted into the layer before them: least squares in closed form, no labels.

Where blocks were removed behind a part ``a(S(x) + n(W * h(x)))`` of a network, W its last convolution and n the
norm behind that, the part's state stands for the original's state behind those blocks. With u the part's sum
and t the original's before its activation

    minimise over dW, db   mean ||r - dW * h - db||^2 + ridge ||dW||^2,    r = t - u,

a linear system of the size of a convolution window. Where ReLU makes zero of both sums nothing is missing: r is
what u lacks for the activation to give what it gives of t. That depends on u, so every part is fitted `TURNS`
times. The sum goes into W and n, so the architecture stays as it is.

All parts behind the first removed block are fitted in turn, each on the states that the network before it
really gives: those that are followed by no removed block get errors of earlier ones corrected. Convolutions
inside a branch are fitted before W, to what they gave in the original.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from resprune import refit
from resprune.chain import ResidualChain
from resprune.checks import full_float32
from resprune.counterparts import is_cut, side_by_side
from resprune.errors import DataError
from resprune.lines import Line
from resprune.records import PrunePlan
from resprune.trajectory import Batch, OnBatch

MOST_IMAGES = 2048
TURNS = 2
LARGE = 1024
"""Of a convolution inside a branch with more unknowns fewer pixels are looked at, and once: its cost grows with
their cube, and it gives little less."""
STATE_BYTES = 1 << 30
"""Of the states of both networks that wait; fewer images are taken where states are larger."""


@full_float32()
def compensate(
    chain: ResidualChain,
    pruned: ResidualChain,
    plan: PrunePlan,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    on_batch: OnBatch | None = None,
) -> ResidualChain:
    """Return a copy of the pruned network whose parts behind the cut make up for the removed blocks.

    Exits' tensors of their own are dropped where anything changed, as they describe other states.

    Args:
        chain: The original.
        pruned: What became of it; left as it is.
        plan: Carried out.
        batches: Labels are not looked at; `affordable_images` of them are read.
        seed: Of the pixels that are looked at.
        on_batch: Told of progress.

    Raises:
        DataError: where there are no images.
    """
    result = pruned.duplicate()
    images = _first(batches, affordable_images(chain))
    with torch.inference_mode():
        theirs = [chain.stem(batch.to(chain.device)) for batch in images]
        ours = [result.stem(batch.to(result.device)) for batch in images]
        cut = False
        for part, originals in side_by_side(chain, result, plan):
            *passed, last = originals
            here, off = is_cut(part, originals), cut and not _equal(theirs, ours)
            cut = cut or here
            if part is not None and off:
                for line, target in zip(Line.of(part).inside, Line.of(originals[0]).inside, strict=False):
                    thrifty = line.unknowns > LARGE
                    _fit(line, ours, [target.sum(x) for x in theirs], seed, thrifty=thrifty)
            for original in passed:
                theirs = [original.module(x) for x in theirs]
            if part is None:
                theirs = [last.module(x) for x in theirs]
                continue
            line = Line.of(part)
            if line.can_be_fitted and (here or off):
                target = Line.of(last)
                sums = [target.sum(x) for x in theirs]
                _fit(line, ours, sums, seed)
                theirs = [target.activation(t) for t in sums]
            else:
                theirs = [last.module(x) for x in theirs]
            ours = [part.module(x) for x in ours]
    if on_batch is not None:
        on_batch(sum(map(len, images)))
    return result


def _fit(
    line: Line, states: Sequence[Tensor], sums: Sequence[Tensor], seed: int, *, thrifty: bool = False
) -> None:
    """Fit a line's sums of its inputs to others, in place, where that helps; an eighth as dear when thrifty."""
    for _ in range(1 if thrifty else TURNS):
        fit = refit.fit(line, states, sums, seed=seed, rows=refit.ROWS // 4 if thrifty else None)
        if fit is None:
            return
        line.take_in(fit)


def can_compensate(chain: ResidualChain, pruned: ResidualChain, plan: PrunePlan) -> bool:
    """Whether any part behind the first cut, or right before it, has a convolution that can be fitted."""
    cut = False
    for part, originals in side_by_side(chain, pruned, plan):
        cut = cut or is_cut(part, originals)
        if cut and part is not None and Line.of(part).can_be_fitted:
            return True
    return False


def affordable_images(chain: ResidualChain) -> int:
    """Return how many images' states of two networks fit into `STATE_BYTES`; at most `MOST_IMAGES`."""
    recipe = chain.preprocessing
    with torch.no_grad():
        x = chain.outline.stem(torch.empty(1, recipe.channels, recipe.height, recipe.width, device="meta"))
        largest = x.numel()
        for part in chain.outline.parts:
            x = part.module(x)
            largest = max(largest, x.numel())
    return max(1, min(MOST_IMAGES, STATE_BYTES // (3 * largest * 4)))


def _first(batches: Iterable[Batch], count: int) -> list[Tensor]:
    images: list[Tensor] = []
    for batch, _ in batches:
        images.append(batch[: count - sum(map(len, images))].contiguous(memory_format=torch.channels_last))
        if sum(map(len, images)) >= count:
            break
    if not sum(map(len, images)):
        raise DataError("no images to fit a network on")
    return images


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
