"""The statistics of a pruned network's batch norms: estimated anew, or matched to the original's.

Estimated anew they are those of the images, as training would leave them. Images without the training's
augmentation have other ones, however, and an original whose statistics are estimated anew on such images loses
accuracy. Matched, every norm gives what its counterpart in the original gives on the same images, to mean and
variance of every channel: only what the removal changed is corrected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.counterparts import side_by_side
from resprune.errors import DataError
from resprune.records import PrunePlan
from resprune.trajectory import Batch, OnBatch

Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""timm's norms that carry their activation are of these classes too."""


def re_estimate(
    chain: ResidualChain, batches: Iterable[Batch], on_batch: OnBatch | None = None, *, first: int | None = None
) -> ResidualChain:
    """Return a copy whose batch norms have mean and variance of these images; parameters stay as they are.

    Every norm normalises with the batch's own statistics meanwhile, as in training, so that the norms behind it
    see what they will see. A norm's statistics are the averages of the batches' means and of their variances
    (unbiased, as torch stores them), weighted by numbers of images. One batch of all images would give the
    same means in the first norm, and variances that are larger by the variance of the batches' means, which
    large batches drawn at random make small.

    Exits' tensors of their own are dropped, as they describe other states, unless all blocks are left as
    they are.

    Args:
        chain: Left as it is; nothing is shared with the result, which is the chain itself where there is
            nothing to estimate.
        batches: Labels are not looked at. A batch of a single image, which has no variance in a norm behind
            the pooling, is joined to another one.
        on_batch: Told of progress.
        first: Norms before block ``first``, in the stem too, keep their statistics; None re-estimates all.

    Raises:
        DataError: where there are fewer than two images.
    """
    if not norms_behind(chain, first):
        return chain
    result = chain.duplicate()
    if first is not None and first >= chain.depth:
        own = {name: rows.clone() for name, rows in chain.exit_state.items()}
        result = replace(result, exit_state=own)
    norms, seen = norms_behind(result, first), 0
    with torch.no_grad(), _estimating(norms):
        for images in _no_single_images(batches):
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / seen  # of a running average that weights all images alike
            result(images.to(result.device, memory_format=torch.channels_last))
            if on_batch is not None:
                on_batch(len(images))
        if not seen:
            raise DataError("no images to estimate statistics on")
    return result


def match(
    chain: ResidualChain,
    pruned: ResidualChain,
    plan: PrunePlan,
    batches: Iterable[Batch],
    on_batch: OnBatch | None = None,
) -> ResidualChain:
    """Return a copy whose batch norms behind the first cut give what the original's give, in mean and variance.

    A norm of weight w and bias b, with mean m and deviation s in its running statistics, gives a channel of
    mean a and deviation d the mean ``w (a - m) / s + b`` and the deviation ``|w| d / s``. Where w, b, a and d
    are the original's and w', b', a' and d' the pruned network's,

        s' = s |w'| d' / (|w| d),    m' = a' - (w (a - m) / s + b - b') s' / w'

    make both alike. A channel that has no deviation or no weight is only moved, s' = s and m' = a' - (a - m).
    Every batch is normalised so with its own figures meanwhile, and the averages over images of means and
    variances make the statistics in the end. As both networks see the same images, few are enough.

    Args:
        chain: The original, in eval mode.
        pruned: What became of it; left as it is.
        plan: Carried out.
        batches: Labels are not looked at; single images are treated as in `re_estimate`.
        on_batch: Told of progress.

    Raises:
        DataError: where there are fewer than two images.
    """
    result = pruned.duplicate()
    pairs = _pairs(chain, result, plan)
    seen = 0
    with torch.no_grad(), ExitStack() as hooks:
        for pair in pairs:
            hooks.enter_context(pair.original.register_forward_pre_hook(pair.look))
            hooks.enter_context(pair.own.register_forward_pre_hook(pair.adapt))
        for images in _no_single_images(batches):
            x = images.to(chain.device, memory_format=torch.channels_last)
            chain(x)
            result(x)
            seen += len(images)
            for pair in pairs:
                pair.add(len(images))
            if on_batch is not None:
                on_batch(len(images))
        if not seen:
            raise DataError("no images to estimate statistics on")
        for pair in pairs:
            pair.set(pair.sums / seen)
    return result


class _Pair:
    """A norm of the pruned network and its counterpart, and the figures of what they see.

    Attributes:
        own, original: The two.
        figures: Of the batch, (4, channels): mean and variance of the original's input, of the own one's.
        sums: Of all batches, weighted by their images.
    """

    def __init__(self, own: Norm, original: Norm) -> None:
        self.own, self.original = own, original
        assert original.running_mean is not None
        self.sums = original.running_mean.new_zeros(4, original.num_features, dtype=torch.float64)
        self.figures = self.sums.clone()

    def look(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        """Take the figures of what the original sees."""
        self.figures[:2] = _moments(inputs[0])

    def adapt(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        """Normalise what the own one is about to see as the original did."""
        self.figures[2:] = _moments(inputs[0])
        self.set(self.figures)

    def add(self, images: int) -> None:
        """Remember a batch."""
        self.sums += self.figures * images

    def set(self, figures: Tensor) -> None:
        """Give the own norm the statistics that make both alike."""
        own, original = self.own, self.original
        assert original.running_mean is not None
        assert original.running_var is not None
        assert own.running_mean is not None
        assert own.running_var is not None
        mean, variance, own_mean, own_variance = figures
        (weight, bias), (own_weight, own_bias) = _affine(original), _affine(own)
        theirs, ours = weight.square() * variance, own_weight.square() * own_variance
        alike = (theirs > 0) & (ours > 0)
        ratio = torch.where(alike, ours / theirs, 1.0)
        spread, above = original.running_var.double() + original.eps, mean - original.running_mean
        given = weight * above + (bias - own_bias) * spread.sqrt()
        shift = torch.where(alike, given / own_weight, above)
        # A variance has no less than nothing: the mean is moved for the deviation that there can be.
        least = (spread * ratio - own.eps).clamp_min(0)
        own.running_var.copy_(least)
        own.running_mean.copy_(own_mean - shift * ((least + own.eps) / spread).sqrt())


def _affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return a norm's weight and bias (channels,), in double precision."""
    assert norm.running_mean is not None
    mean = norm.running_mean
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight
    bias = torch.zeros_like(mean) if norm.bias is None else norm.bias
    return weight.double(), bias.double()


def _moments(x: Tensor) -> Tensor:
    """Return mean and variance (2, c) of every channel of (n, c, ...)."""
    variance, mean = torch.var_mean(x, dim=[0, *range(2, x.ndim)])
    return torch.stack([mean, variance]).double()


def _pairs(chain: ResidualChain, pruned: ResidualChain, plan: PrunePlan) -> list[_Pair]:
    """Return the norms behind the first cut with their counterparts, whose parts may have other names."""
    renamed = {
        part.path: originals[0].path
        for part, originals in side_by_side(chain, pruned, plan)
        if part is not None
    }
    behind = {id(norm) for norm in norms_behind(pruned, plan.removed[0])}
    pairs = []
    for name, module in pruned.network.named_modules():
        if id(module) in behind:
            part = next((path for path in renamed if name.startswith(f"{path}.")), "")
            theirs = renamed[part] + name[len(part) :] if part else name
            pairs.append(_Pair(module, chain.network.get_submodule(theirs)))  # pyright: ignore[reportArgumentType]
    return pairs


def norms_behind(chain: ResidualChain, first: int | None) -> list[Norm]:
    """Return the batch norms with running statistics, but for those before block ``first``, in order."""
    before: set[nn.Module] = set()
    if first is not None:
        whole = (chain.stem, *(part for b in chain.blocks[:first] for part in (*b.lead, b.part.module)))
        before = {module for part in whole for module in part.modules()}
    return [
        module
        for module in chain.network.modules()
        if isinstance(module, Norm) and module.running_mean is not None and module not in before
    ]


@contextmanager
def _estimating(norms: Iterable[Norm]) -> Iterator[None]:
    """Let norms forget their statistics and gather new ones; their modes and momenta are restored."""
    were = [(norm, norm.training, norm.momentum) for norm in norms]
    try:
        for norm, *_ in were:
            norm.reset_running_stats()
            norm.training = True  # of the norm alone: some have dropout inside
        yield
    finally:
        for norm, training, momentum in were:
            norm.training, norm.momentum = training, momentum


def _no_single_images(batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Yield the images (n, c, h, w) of batches, n > 1 everywhere.

    Raises:
        DataError: where there is one image altogether.
    """
    ready: list[Tensor] = []
    spare: list[Tensor] = []
    for images, _ in batches:
        (ready if sum(map(len, ready)) < 2 else spare).append(images)
        if sum(map(len, spare)) >= 2:
            yield torch.cat(ready)
            ready, spare = spare, []
    if rest := ready + spare:
        if sum(map(len, rest)) < 2:
            raise DataError("a single image has no statistics", hint="give more images")
        yield torch.cat(rest)
