"""A pruned network is trained to do what the original does, its teacher, in the loop of fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resprune import training
from resprune.chain import ResidualChain
from resprune.data import TrainingData, open_training
from resprune.devices import trainable
from resprune.fresh import initialise
from resprune.judging import Judge
from resprune.reading import Progress
from resprune.records import EpochRow, PrunePlan, Recipe, Recovery
from resprune.recovery import NOTHING_LOST

HEALING = "healing"


@dataclass(frozen=True)
class Healer:
    """Trains networks of one data set by one recipe.

    Attributes:
        chain: The original.
        recipe: Of the training.
        images: To learn from, and those held out, on which the best epoch is chosen.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: Opened with a description and a number of images.
        on_epoch: Told of every epoch, epoch 0 (before any training) included.
    """

    chain: ResidualChain
    recipe: Recipe
    images: TrainingData
    device: str
    progress: Progress
    on_epoch: Callable[[EpochRow], None]

    @classmethod
    def open(
        cls,
        chain: ResidualChain,
        spec: str | Path,
        recipe: Recipe,
        *,
        device: str = "auto",
        progress: Progress,
        on_epoch: Callable[[EpochRow], None] = lambda row: None,
        **options: Any,
    ) -> Healer:
        """Open training images for a network; they need no labels where the teacher alone teaches.

        Args:
            chain: The original.
            spec: See `resprune.data.open_training`, also for what is raised.
            recipe: Of the training.
            device: See `Healer`.
            progress: See `Healer`.
            on_epoch: See `Healer`.
            options: Of `resprune.data.open_training`: split, samples, batch_size.

        Raises:
            UsageError: where nothing can be trained on the device.
        """
        trainable(device)  # refused here rather than after a search for blocks
        images = open_training(
            spec,
            chain.preprocessing,
            chain.classes,
            hold_out=recipe.hold_out,
            augment=recipe.augment,
            auto_augment=recipe.auto_augment,
            seed=recipe.seed,
            needs_labels=recipe.needs_labels,
            **options,
        )
        return cls(chain, recipe, images, device, progress, on_epoch)

    @cached_property
    def _judge(self) -> Judge | None:
        """On the images held out."""
        held_out = self.images.held_out
        return None if held_out is None else Judge(self.chain, held_out)

    @property
    def steps(self) -> int:
        """Of the optimizer, in one healing."""
        return self._laid_out(self.chain, self.recipe).steps

    def heal(self, pruned: ResidualChain, plan: PrunePlan) -> tuple[ResidualChain, Recovery] | None:
        """Return the pruned network after training, or as it is where it is not closer to the original then.

        Closer means a smaller divergence of the outputs on the images held out; without any the training is
        trusted. None where the outputs there are the original's already.

        Args:
            pruned: Left as it is.
            plan: What was removed of the original.

        Raises:
            TrainingError: where the loss is not finite.
        """
        judge, data = self._judge, self.images.summary
        before = math.nan if judge is None else judge.divergence(pruned)
        if before <= NOTHING_LOST:
            return None
        healed = self._train("heal", pruned, self.recipe, self.chain, plan)
        after = math.nan if judge is None else judge.divergence(healed)
        kept = judge is None or after < before or (math.isnan(before) and not math.isnan(after))
        held = 0 if judge is None else judge.batches.summary.samples
        record = Recovery(
            HEALING, data.split, data.samples, held, before, after, kept, len(plan.removed), recipe=self.recipe
        )
        return (healed if kept else pruned), record

    def from_scratch(self, pruned: ResidualChain, seed: int, rounds: int = 1) -> ResidualChain:
        """Return a network of the pruned one's shape, trained alike but without its weights or a teacher.

        Args:
            pruned: Left as it is.
            seed: Of the weights and of the order of images.
            rounds: How many healings it trains as long as.

        Raises:
            TrainingError: where the loss is not finite.
        """
        fresh = pruned.duplicate()
        fresh.network.cpu()  # where the generator is: the seed gives the same weights on any device
        initialise(fresh.network, torch.Generator().manual_seed(seed))
        recipe, steps = self.recipe, self.recipe.steps
        recipe = replace(
            recipe,
            epochs=rounds * recipe.epochs,
            steps=None if steps is None else rounds * steps,
            plain_epochs=rounds * recipe.plain_epochs,
            milestones=tuple(rounds * epoch for epoch in recipe.milestones),
        )
        recipe = replace(recipe, teacher_weight=0.0, feature_weight=0.0, seed=seed)
        return self._train("train from scratch", fresh, recipe, None)

    def _train(
        self,
        what: str,
        start: ResidualChain,
        recipe: Recipe,
        teacher: ResidualChain | None,
        cut: PrunePlan | None = None,
    ) -> ResidualChain:
        engine, plan = training.engine(self.device), self._laid_out(start, recipe)
        with self.progress(what, plan.steps * plan.batch_size) as on_batch:
            listener = training.Listener(on_batch, on_epoch=lambda rows: self.on_epoch(rows[-1]))
            trained = training.train(
                start, self.images, recipe, teacher=teacher, cut=cut, on=engine, listener=listener
            ).chain
        trained.network.to(self.chain.device)
        return trained

    def _laid_out(self, start: ResidualChain, recipe: Recipe) -> training.Plan:
        processes = training.engine(self.device).num_processes
        return training.lay_out(start, recipe, len(self.images.images), processes)
