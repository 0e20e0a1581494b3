"""What learns in a run: the student, its optimizer, its average, its teacher; and one step of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from timm.data.mixup import Mixup
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.counterparts import Counterparts
from resprune.data import normalise
from resprune.memory import halving
from resprune.records import PrunePlan, Recipe
from resprune.stage_cost import feature_loss, shrink_branches, stage_cost, vanishing_group
from resprune.training.schedule import Plan, mixed
from resprune.training.student import Student, heads_of
from resprune.training.synced import SyncedNorms

LEAST = 8
"""Images that a batch norm normalises with at least, where memory lacks; of fewer its statistics are noise."""
Part = tuple[Tensor, Tensor]
"""Images (n, c, h, w) and labels (n,)."""


class Learner:
    """A student with all that one optimizer step needs.

    Everything random is a function of seed and step, so `state` is all there is to go on from.

    Args:
        chain: Where it starts; left as it is.
        teacher: Whose output it stays close to; None for none.
        recipe: All choices.
        plan: The run's steps.
        engine: Device and processes.
        cut: What was removed of the teacher, where that is how the chain was made; more states are then known
            to be alike.
    """

    def __init__(
        self,
        chain: ResidualChain,
        teacher: ResidualChain | None,
        recipe: Recipe,
        plan: Plan,
        engine: Accelerator,
        cut: PrunePlan | None = None,
    ) -> None:
        self.recipe, self.plan, self.engine, device = recipe, plan, engine, engine.device
        heads = (recipe.heads or heads_of(chain)) if recipe.stages else None
        kinds: dict[str, Any] = {"channels_last": recipe.channels_last}
        alike = None
        if teacher is not None and recipe.compares_states:
            alike = Counterparts.of(chain, teacher, cut)
        self.student = Student(chain, heads, device, states=alike.own if alike else (), **kinds)
        self.format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.recipe_of_images = chain.preprocessing
        self.optimizer = self._optimizer()
        self.ema = None if recipe.ema is None else ModelEmaV3(self.student, decay=recipe.ema, use_warmup=True)
        self.teacher = None
        if teacher is not None and (recipe.teacher_weight or alike):
            kept = Student(teacher, None, device, states=alike.taught if alike else (), **kinds)
            self.teacher = kept.eval().requires_grad_(False)
        self.mixup = None
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=0.0, num_classes=chain.classes)
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and _knows_bf16(device))
        if recipe.compile:
            self.student.compile()
        self.model: nn.Module = engine.prepare(self.student)
        self.at_once = plan.part

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe, groups = self.recipe, self.student.groups(self.recipe)
        if recipe.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=recipe.rate)
        nesterov = recipe.nesterov and recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=nesterov)

    @property
    def average(self) -> Student:
        """The moving average where there is one, else the student itself; what is measured and written."""
        return self.student if self.ema is None else cast("Student", self.ema.module)

    @property
    def is_finite(self) -> bool:
        """Whether all weights and statistics are; the last loss does not know of the last update."""
        tensors = (*self.student.parameters(), *self.student.buffers())
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())

    def step(self, step: int, parts: Iterator[Part]) -> Tensor:
        """Take optimizer step ``step``, reading its parts; returns the `sums` of its losses in this process."""
        recipe = self.recipe
        rate, gamma = self.plan.rate(step), self.plan.gamma(step)
        for group in self.optimizer.param_groups:
            scaled = group["heads"] and recipe.optimizer == "sgd"
            group["lr"] = rate / gamma if scaled else rate
            if scaled:
                group["weight_decay"] = recipe.weight_decay * gamma
        sums = self._gradients(step, list(islice(parts, recipe.accumulate)))
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.student.parameters(), recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if recipe.vanish:
            shrink_branches(self.student.chain, rate * recipe.vanish)
        if self.ema is not None:
            self.ema.update(self.student, step=step + 1)  # timm counts from 1
            if recipe.vanish:
                self._zero_the_average()
        return sums

    def _gradients(self, step: int, parts: Sequence[Part]) -> Tensor:
        """Sum up a step's gradients; where memory lacks, from smaller parts, as ``--accumulate`` would.

        The run stays with the smaller parts. What a launcher started cannot do so: processes meet in every
        forward pass, and DistributedDataParallel, which is there for a single one too, takes no second try.
        """
        alone = self.model is self.student
        before = [buffer.clone() for buffer in self.student.buffers()] if alone else []

        def attempt(at_once: int) -> Tensor:
            if at_once < self.at_once:
                self.at_once = at_once
                self.optimizer.zero_grad(set_to_none=True)
                for buffer, was in zip(self.student.buffers(), before, strict=True):
                    buffer.copy_(was)
            return self._accumulated(step, parts)

        note = "; batch norms see no more at a time"
        return halving(attempt, self.at_once, "train", least=LEAST if alone else self.at_once, note=note)

    def _accumulated(self, step: int, parts: Sequence[Part]) -> Tensor:
        """Add the gradients of all parts to the parameters', and return the `sums`."""
        recipe, engine = self.recipe, self.engine
        torch.manual_seed(mixed(recipe.seed, step, engine.process_index))  # for networks with dropout
        sums = no_sums(engine.device)
        for number, part in enumerate(parts):
            seed = mixed(recipe.seed, step, number) if self.plan.augments(step) else None
            images, targets = self._prepared(*part, seed)
            pieces = math.ceil(len(images) / self.at_once)
            for piece in range(pieces):
                x, y = images.tensor_split(pieces)[piece], targets.tensor_split(pieces)[piece]
                share = len(x) / len(images) / len(parts)
                last = number == len(parts) - 1 and piece == pieces - 1
                with nullcontext() if last else engine.no_sync(self.model):
                    losses = self._losses(x, y, step)
                    engine.backward(losses[0] * share)
                    sums += torch.stack([value.detach().double() for value in losses]) * share
        return sums

    def _prepared(self, images: Tensor, labels: Tensor, seed: int | None) -> Part:
        """Return what the network is given of images as bytes (n, c, h, w).

        Args:
            images: Of a part of a batch.
            labels: (n,).
            seed: Of mixup and CutMix, where the recipe has them; None for neither.
        """
        device = self.engine.device
        x = normalise(images.to(device, non_blocking=True), self.recipe_of_images)
        x, targets = x.contiguous(memory_format=self.format), labels.to(device, non_blocking=True)
        if self.mixup is not None and seed is not None:
            with _seeded_numpy(seed):
                x, targets = self.mixup(x, targets)
        return x, targets

    def _losses(self, x: Tensor, targets: Tensor, step: int) -> tuple[Tensor, ...]:
        """Return objective, final loss, mean exit loss and distillation of input (n, c, h, w)."""
        recipe, device = self.recipe, self.engine.device
        synced = recipe.sync_norms and self.engine.num_processes > 1
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            with SyncedNorms() if synced else nullcontext():
                logits, own = self.model(x)
            with torch.no_grad():
                taught, states = (None, ()) if self.teacher is None else self.teacher(x)
        cost = stage_cost(
            logits.float(),
            targets,
            self.plan.gamma(step),
            label_smoothing=recipe.label_smoothing,
            teacher=None if taught is None else taught[:, 0].float(),
            teacher_weight=recipe.teacher_weight,
            temperature=recipe.temperature,
        )
        total, nothing = cost.total, cost.losses.new_zeros(())
        if own:
            total = total + self.plan.feature_weight(step) * feature_loss(own, states)
        exits = cost.losses[:-1].mean() if len(cost.losses) > 1 else nothing
        return total, cost.losses[-1], exits, nothing if cost.distillation is None else cost.distillation

    @torch.no_grad()
    def _zero_the_average(self) -> None:
        """Let branches of the average vanish with the student's; by itself it would get there late."""
        blocks = zip(self.student.chain.blocks, self.average.chain.blocks, strict=True)
        for own, average in blocks:
            alive = torch.stack([parameter.any() for parameter in vanishing_group(own)]).any()
            for parameter in vanishing_group(average):
                parameter.mul_(alive)  # without a look at it, for which a GPU would wait

    def state(self) -> dict[str, Any]:
        """Return what `load` takes up again; ``state_dict`` is the network's, under its native names."""
        return {
            "state_dict": self.student.network.state_dict(),
            "exits": self.student.own.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.ema is None else self.ema.module.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.student.network.load_state_dict(state["state_dict"])
        self.student.own.load_state_dict(state["exits"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["average"])


def _knows_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 by itself."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # torch asks the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


def no_sums(device: torch.device) -> Tensor:
    """Return zeros for the sums of objective, final loss, mean exit loss and distillation."""
    return torch.zeros(4, dtype=torch.float64, device=device)


@contextmanager
def _seeded_numpy(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which timm's Mixup draws from, and give it back as it was."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
