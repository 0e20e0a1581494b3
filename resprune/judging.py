"""How well networks do on images, and how far their outputs are from the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from resprune.chain import ResidualChain
from resprune.data import Batches
from resprune.divergence import kl
from resprune.memory import pass_over
from resprune.reading import Progress, silent
from resprune.records import Figures, Outcomes
from resprune.trajectory import OnBatch, Tally, check_finite

T = TypeVar("T")
_Outputs = tuple[Tensor, Tensor, Tensor | None]
"""Logits (n, classes) of the original and of another network, and labels (n,), of one batch."""


def right_and_wrong(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Return on how many images two networks are right, (2, 2): the first wrong or right, the second.

    Args:
        first: Logits (n, classes).
        second: Likewise.
        labels: Class indices (n,).
    """
    pairs = 2 * (first.argmax(1) == labels).long() + (second.argmax(1) == labels).long()
    return torch.bincount(pairs, minlength=4).view(2, 2)


def outcomes_of(counts: Tensor) -> Outcomes:
    """Return sums of `right_and_wrong` as a record."""
    (neither, only_second), (only_first, both) = counts.tolist()
    return Outcomes(both, only_first, only_second, neither)


@dataclass(frozen=True)
class Judge:
    """Measures networks against labels and against the original, whose outputs are computed once.

    Attributes:
        chain: The original.
        batches: Labelled or not.
        progress: Shown the images done.
    """

    chain: ResidualChain
    batches: Batches
    progress: Progress = silent

    @cached_property
    def _original(self) -> Tensor:
        """Logits (images, classes)."""

        def logits(batches: Batches, on_batch: OnBatch) -> Tensor:
            found = []
            with torch.inference_mode():
                for images, _ in batches:
                    found.append(self._logits(self.chain, images))
                    on_batch(len(images))
            return torch.cat(found)

        return pass_over(self.batches, logits, self.progress, "judge")

    def __call__(self, network: ResidualChain) -> Figures:
        """Return the figures of a network.

        Raises:
            ArchitectureError: where one of its logits is not finite.
        """
        return self._over(network, self._figures)

    def outcomes(self, network: ResidualChain) -> Outcomes:
        """Return on how many images the original is right, the network, or both; the images need labels.

        Raises:
            ArchitectureError: where one of its logits is not finite.
        """
        return self._over(network, self._outcomes)

    def divergence(self, network: ResidualChain) -> float:
        """Return how far a network's outputs are from the original's; NaN where a logit is not finite."""
        return self._over(network, self._divergence)

    def _over(self, network: ResidualChain, measure: Callable[[Iterable[_Outputs]], T]) -> T:
        original = self._original

        def outputs(batches: Batches, on_batch: OnBatch) -> Iterator[_Outputs]:
            done = 0
            for images, labels in batches:
                logits = self._logits(network, images)
                yield original[done : done + len(images)], logits, labels
                done += len(images)
                on_batch(len(images))

        with torch.inference_mode():
            return pass_over(self.batches, lambda *given: measure(outputs(*given)), self.progress, "judge")

    @staticmethod
    def _figures(outputs: Iterable[_Outputs]) -> Figures:
        tally, total = Tally(1), 0.0
        for original, logits, labels in outputs:
            total += kl(original, logits)
            tally.add(logits.unsqueeze(1), None if labels is None else labels.to(logits.device))
        return Figures(tally.result(), max(total / tally.samples, 0.0))

    @staticmethod
    def _outcomes(outputs: Iterable[_Outputs]) -> Outcomes:
        counts = torch.zeros(2, 2, dtype=torch.int64)
        for original, logits, labels in outputs:
            check_finite(logits)
            assert labels is not None
            counts += right_and_wrong(original.cpu(), logits.cpu(), labels.cpu())
        return outcomes_of(counts)

    @staticmethod
    def _divergence(outputs: Iterable[_Outputs]) -> float:
        totals = [(kl(original, logits), len(logits)) for original, logits, _ in outputs]
        total, samples = map(sum, zip(*totals, strict=True))
        return max(total / samples, 0.0)  # NaN stays

    def _logits(self, network: ResidualChain, images: Tensor) -> Tensor:
        return network(images.to(self.chain.device, memory_format=torch.channels_last))
