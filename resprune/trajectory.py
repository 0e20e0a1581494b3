"""Chain and batches become a `Trajectory`: every exit, residual and drop effect, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from resprune.chain import ResidualChain
from resprune.checks import full_float32
from resprune.errors import ArchitectureError, DataError
from resprune.exits import ExitPass, SkipChainExits
from resprune.records import BlockRow, Classwise, Evaluation, Trajectory

Batch = tuple[Tensor, Tensor | None]
"""Images (n, c, h, w) and class indices (n,), or None without labels."""
OnBatch = Callable[[int], None]
"""Called with the number of images of every batch that is done."""


class Classifier(Protocol):
    """A network as far as its logits are all that matters."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, images: Tensor) -> Tensor: ...


def check_finite(logits: Tensor) -> None:
    """Refuse logits that are NaN or infinite: NaN compares false with everything and would count as a hit.

    Raises:
        ArchitectureError: where one is.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ArchitectureError(
            "the logits are not finite", hint="check the preprocessing, and that the weights are undamaged"
        )


class Tally:
    """Sums of one or several networks' losses and hits over batches, in double precision.

    Args:
        networks: How many logits belong to each image.
        classes: Of the class-wise hits; 0 counts none.
    """

    def __init__(self, networks: int, classes: int = 0) -> None:
        self.networks = networks
        self.samples = 0
        self.labelled = True
        self._sums = torch.zeros(3, networks, dtype=torch.float64)
        self._counts = torch.zeros(classes, dtype=torch.int64)
        self._hits = torch.zeros(classes, networks, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor | None) -> None:
        """Add logits (n, networks, classes) and class indices (n,).

        Raises:
            ArchitectureError: where a logit is NaN or infinite.
        """
        check_finite(logits)
        n, networks, classes = logits.shape
        self.samples += n
        if labels is None:
            self.labelled = False
            return
        targets = labels[:, None].expand(n, networks)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        own = logits.gather(2, targets[:, :, None])
        # Rank of the true class, ties broken by the class index as argmax breaks them.
        ahead = (logits > own) | ((logits == own) & _below(targets, classes))
        rank = ahead.sum(2)
        sums = torch.stack([losses.view(n, networks).double(), (rank == 0).double(), (rank < 5).double()])
        self._sums += sums.sum(1).cpu()
        if len(self._counts):
            own = labels.cpu()
            self._counts += own.bincount(minlength=classes)
            self._hits.index_add_(0, own, (rank == 0).long().cpu())

    def combine(self, total: Callable[[Tensor], Tensor]) -> None:
        """Take in the tallies of other processes; ``total`` gives the sum of a tensor over all of them."""
        state = total(torch.tensor([self.samples, 0 if self.labelled else 1]))
        self.samples, self.labelled = int(state[0]), int(state[1]) == 0
        self._sums = total(self._sums)
        if len(self._counts):
            self._counts, self._hits = total(self._counts), total(self._hits)

    def result(self, network: int = -1) -> Evaluation:
        """Return accuracies and mean loss of one of the networks."""
        if not self.labelled:
            return Evaluation(None, None, None, self.samples)
        loss, hits, hits_top5 = (self._sums[:, network] / self.samples).tolist()
        return Evaluation(hits, hits_top5, loss, self.samples)

    def classwise(self, names: tuple[str, ...] | None) -> Classwise:
        """Return the hits of every class, whose names these are, by every network."""
        hits = tuple(map(tuple, self._hits.T.tolist()))
        return Classwise(tuple(self._counts.tolist()), hits, names)


@full_float32()
@torch.inference_mode()
def measure(
    chain: ResidualChain,
    batches: Iterable[Batch],
    *,
    drops: bool = True,
    classwise: bool = False,
    class_names: tuple[str, ...] | None = None,
    on_batch: OnBatch | None = None,
) -> Trajectory:
    """Measure all exits of a chain over the data, in one forward pass.

    Args:
        chain: Any chain; it is left as it was.
        batches: Images and labels; labels may be missing.
        drops: Also run, for every block, the network without it. That reuses the prefix, so block k costs
            the suffix from k on, and nothing where its branch gives exactly zero.
        classwise: Also count the hits of every class.
        class_names: Of those, where they are known.
        on_batch: Told of progress.

    Raises:
        DataError: where there are no images, or classes are asked for and there are no labels.
        ArchitectureError: where the logits are not finite, or all zero.
    """
    exits = SkipChainExits(chain)
    depth = chain.depth
    tally = Tally(depth + 1, chain.classes if classwise else 0)
    residuals = torch.zeros(depth, dtype=torch.float64)
    shifts = torch.zeros(depth, 2, dtype=torch.float64)
    final_square = 0.0
    for images, labels in batches:
        if classwise and labels is None:
            raise DataError(
                "there are no labels to tell classes by", hint="use labelled images, such as class folders"
            )
        # Convolutions on the CPU run a third faster in this format, whatever format the caller's images have.
        inputs = images.to(chain.device, memory_format=torch.channels_last)
        logits, dropped = _forward(chain, exits.start(), inputs, drops)
        final = logits[:, -1]
        tally.add(logits, None if labels is None else labels.to(chain.device))
        residuals += _square_sums(logits.diff(dim=1))
        final_square += float(final.square().sum(dtype=torch.float64))
        for k, without in enumerate(dropped):
            shifts[k] += shift(final, without)
        if on_batch is not None:
            on_batch(len(images))
    if tally.samples == 0:
        raise DataError("no images to measure on")
    final_norm = math.sqrt(final_square / tally.samples)
    if final_norm == 0:
        raise ArchitectureError(
            "the logits are all zero",
            where=chain.origin.path,
            hint="check the preprocessing, and that the network was trained",
        )
    root_mean = (residuals / tally.samples).sqrt().tolist()
    squares, same = (shifts / tally.samples).T
    change, agreement = squares.sqrt().div(final_norm).tolist(), same.tolist()
    rows = [
        BlockRow(
            index=k,
            path=block.path,
            stage=block.stage,
            exit_accuracy=(own := tally.result(k)).accuracy,
            exit_loss=own.loss,
            residual_norm=root_mean[k],
            residual_norm_relative=root_mean[k] / final_norm,
            parameter_norm=branch_norm(block.branch.parameters()),
            drop_change_relative=change[k] if drops else None,
            drop_agreement=agreement[k] if drops else None,
            macs=chain.costs[k][0],
            parameters=chain.costs[k][1],
        )
        for k, block in enumerate(chain.blocks)
    ]
    found = tally.classwise(class_names) if classwise else None
    return Trajectory(tally.result(), tuple(rows), final_norm, found)


@full_float32()
@torch.inference_mode()
def evaluate(chain: Classifier, batches: Iterable[Batch], *, on_batch: OnBatch | None = None) -> Evaluation:
    """Measure the network itself, without exits.

    Raises:
        DataError: where there are no images, or no labels.
    """
    tally = Tally(1)
    for images, labels in batches:
        if labels is None:
            raise DataError(
                "there are no labels to evaluate against", hint="use labelled images, such as class folders"
            )
        inputs = images.to(chain.device, memory_format=torch.channels_last)
        tally.add(chain(inputs).unsqueeze(1), labels.to(chain.device))
        if on_batch is not None:
            on_batch(len(images))
    if tally.samples == 0:
        raise DataError("no images to evaluate on")
    return tally.result()


def shift(original: Tensor, logits: Tensor) -> Tensor:
    """Return ``||yhat' - yhat||^2`` summed over images, and how many of them have the same top class (2,).

    Args:
        original: Logits (n, classes).
        logits: The same of another network.
    """
    square = (logits - original).square().sum(dtype=torch.float64)
    same = (logits.argmax(1) == original.argmax(1)).sum(dtype=torch.float64)
    return torch.stack([square, same]).cpu()


def branch_norm(parameters: Iterable[Tensor]) -> float:
    """Return the L2 norm of all parameters together."""
    return math.sqrt(sum(float(p.square().sum(dtype=torch.float64)) for p in parameters))


def _forward(chain: ResidualChain, climb: ExitPass, images: Tensor, drops: bool) -> tuple[Tensor, list[Tensor]]:
    """Return logits of all exits (n, N + 1, classes), and of the network without each block in turn."""
    x = chain.stem(images)
    suffixes: list[Tensor | None] = []
    for block in chain.blocks:
        climb.add(x)
        after = block(x)
        if drops:
            skipped = block.skip(x)
            same = torch.equal(skipped, after)
            suffixes.append(None if same else chain.resume(block.index + 1, skipped))
        x = after
    final = chain.resume(chain.depth, x)
    return climb.logits(final), [final if suffix is None else suffix for suffix in suffixes]


def _below(targets: Tensor, classes: int) -> Tensor:
    return torch.arange(classes, device=targets.device) < targets[:, :, None]


def _square_sums(residuals: Tensor) -> Tensor:
    """(n, N, classes) -> (N,): sum over samples of the squared L2 norm."""
    return residuals.square().sum(dim=(0, 2), dtype=torch.float64).cpu()
