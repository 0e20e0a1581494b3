"""Learning rate, stage cost weight and order of the images: functions of seed and step, with no memory.

A run that was killed goes on exactly where it was, and every process of several knows what all do.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch

from resprune.errors import UsageError
from resprune.records import Recipe


@dataclass(frozen=True)
class Plan:
    """Which images every step of a run sees.

    Attributes:
        recipe: Of the run.
        images: Number of training images.
        processes: That share every batch.
        batch_size: Images of a step; those left at an epoch's end wait for the next epoch.
        part: Images of one forward pass in one process.
        steps_an_epoch, steps: Numbers of optimizer steps.
        epochs: The last may be a part of one.
    """

    recipe: Recipe
    images: int
    processes: int
    batch_size: int
    part: int
    steps_an_epoch: int
    steps: int
    epochs: int

    @classmethod
    def of(cls, recipe: Recipe, images: int, processes: int) -> Plan:
        """Lay a run out.

        Raises:
            UsageError: where the batch cannot be shared out evenly.
        """
        shares = processes * recipe.accumulate
        batch = min(recipe.batch_size, images // shares * shares)
        if batch == 0 or batch % shares:
            raise UsageError(
                f"a batch of {min(recipe.batch_size, images)} images cannot be cut into {processes} process(es)"
                f" times {recipe.accumulate} part(s)",
                hint="choose a --batch-size that it divides",
            )
        part = batch // shares
        if part % 2 and (recipe.mixup or recipe.cutmix):
            raise UsageError(
                f"mixup and CutMix pair the images that are seen at once, and {part} is an odd number",
                hint="choose another --batch-size or --accumulate",
            )
        each = images // batch
        steps = recipe.steps or recipe.epochs * each
        return cls(recipe, images, processes, batch, part, each, steps, math.ceil(steps / each))

    def keys(self, epoch: int, first: int, process: int) -> list[list[tuple[int, int]]]:
        """Return what one process reads in an epoch from its step ``first`` on: lists of (image, epoch).

        Args:
            epoch: From 0.
            first: Step of the epoch, from 0.
            process: From 0.
        """
        generator = torch.Generator().manual_seed(mixed(self.recipe.seed, epoch))
        order = torch.randperm(self.images, generator=generator).tolist()
        last = min(self.steps_an_epoch, self.steps - epoch * self.steps_an_epoch)
        starts = [
            step * self.batch_size + (part * self.processes + process) * self.part
            for step in range(first, last)
            for part in range(self.recipe.accumulate)
        ]
        return [[(index, epoch) for index in order[start : start + self.part]] for start in starts]

    def augments(self, step: int) -> bool:
        """Whether the images of a step, from 0, are augmented and mixed."""
        return step // self.steps_an_epoch < self.epochs - self.recipe.plain_epochs

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        recipe, warm_up = self.recipe, self.recipe.warm_up * self.steps
        factor = min(1.0, (step + 1) / warm_up) if warm_up else 1.0
        if recipe.schedule == "cosine":
            factor *= 0.5 * (1 + math.cos(math.pi * step / self.steps))
        elif recipe.schedule == "steps":
            factor *= 0.1 ** sum(step >= epoch * self.steps_an_epoch for epoch in recipe.milestones)
        return recipe.rate * factor

    def gamma(self, step: int) -> float:
        """Return the stage cost weight of a step, from 0."""
        return self._between(self.recipe.gamma, self.recipe.gamma_end, step)

    def feature_weight(self, step: int) -> float:
        """Return the weight of the states' distance of a step, from 0."""
        return self._between(self.recipe.feature_weight, self.recipe.feature_end, step)

    def _between(self, start: float, end: float | None, step: int) -> float:
        return start if end is None else start + (end - start) * step / max(1, self.steps - 1)


def mixed(*numbers: int) -> int:
    """Return a seed below 2^63 for a tuple of numbers; different tuples give unrelated seeds."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
