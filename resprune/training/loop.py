"""The training loop: epochs, the best of them, and the state to go on from; one process or many."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor

from resprune.chain import ResidualChain, seeded_images
from resprune.data import TrainingData, batches_of
from resprune.errors import ArchitectureError, TrainingError, UsageError
from resprune.records import EpochRow, Evaluation, PrunePlan, Recipe
from resprune.stage_cost import check_vanishing
from resprune.training.engine import engine
from resprune.training.learner import Learner, no_sums
from resprune.training.measuring import measure_epoch
from resprune.training.schedule import Plan
from resprune.training.student import heads_of
from resprune.trajectory import OnBatch

SAVE_EVERY = 600.0
"""Seconds after which the state is written within an epoch too, where the loss is looked at next."""
LOOK_EVERY = {"cpu": 1, "cuda": 20}
"""Steps between two looks at the loss, which a GPU waits for."""


@dataclass(frozen=True)
class Trained:
    """What `train` made: the best network as a chain, and what every epoch brought, epoch 0 included."""

    chain: ResidualChain
    rows: tuple[EpochRow, ...]

    @property
    def best(self) -> EpochRow:
        """The epoch whose network it is."""
        return next(row for row in reversed(self.rows) if row.best)


@dataclass(frozen=True)
class Listener:
    """Who is told of a run's progress, in the main process.

    Attributes:
        on_batch: Told of the number of images done.
        on_epoch: Told of the rows so far after every epoch, epoch 0 included, and once on resuming.
        on_best: Given every new best network, and the rows so far.
        on_state: Given all that a run needs to go on, after every epoch and every ten minutes.
    """

    on_batch: OnBatch = field(default=lambda images: None)
    on_epoch: Callable[[tuple[EpochRow, ...]], None] = field(default=lambda rows: None)
    on_best: Callable[[ResidualChain, tuple[EpochRow, ...]], None] = field(default=lambda chain, rows: None)
    on_state: Callable[[dict[str, Any]], None] = field(default=lambda state: None)


def train(
    chain: ResidualChain,
    data: TrainingData,
    recipe: Recipe,
    *,
    teacher: ResidualChain | None = None,
    cut: PrunePlan | None = None,
    state: dict[str, Any] | None = None,
    on: Accelerator | None = None,
    workers: int = 0,
    listener: Listener | None = None,
) -> Trained:
    """Train a copy of a chain with the stage cost, and return the best epoch's network.

    Args:
        chain: Where it starts; left as it is.
        data: Images to learn from, and held-out ones to choose the epoch on.
        recipe: All choices.
        teacher: Network whose output the final output is to stay close to.
        cut: What was removed of the teacher, where that is how the chain was made.
        state: To go on from, as ``listener.on_state`` was given it.
        on: By default the best device and the processes of the launcher.
        workers: Processes that read images.
        listener: Told of progress.

    Raises:
        TrainingError: where the loss is not finite.
        UsageError, ArchitectureError: where recipe, network and processes do not fit.
    """
    on = on or engine()
    plan = lay_out(chain, recipe, len(data.images), on.num_processes)
    # The caller's generators are given back as they were; gradients are wanted wherever the caller is.
    generators = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    with generators, torch.inference_mode(mode=False), torch.enable_grad():
        learner = Learner(chain, teacher, recipe, plan, on, cut)
        return _Run(learner, data, workers, listener or Listener()).go(state)


def lay_out(chain: ResidualChain, recipe: Recipe, images: int, processes: int) -> Plan:
    """Return the plan of a run, or refuse what the network cannot be trained with.

    Args:
        chain: That is to learn.
        recipe: All choices.
        images: Number of training images.
        processes: That share every batch.

    Raises:
        UsageError, ArchitectureError: where recipe, network, images and processes do not fit.
    """
    if recipe.vanish:
        check_vanishing(chain)
    if recipe.stages:
        recipe.check_heads(recipe.heads or heads_of(chain))
    plan = Plan.of(recipe, images, processes)
    if plan.part == 1:
        _check_single(chain)
    return plan


def _check_single(chain: ResidualChain) -> None:
    """Check that no batch norm would see one value alone in training, of which there is no variance."""
    recipe = chain.preprocessing
    network = copy.deepcopy(chain.outline.network).train()
    try:
        network(torch.empty(1, recipe.channels, recipe.height, recipe.width, device="meta"))
    except ValueError as error:
        raise UsageError(
            f"the network cannot be trained on one image at a time ({error})",
            where=chain.origin.path,
            hint="choose a larger --batch-size or a smaller --accumulate, or use more images",
        ) from error


@dataclass
class _Run:
    learner: Learner
    data: TrainingData
    workers: int
    listener: Listener
    rows: list[EpochRow] = field(default_factory=list)
    best: ResidualChain | None = None

    def go(self, state: dict[str, Any] | None) -> Trained:
        learner, plan = self.learner, self.learner.plan
        learner.student.train()
        if state is None:
            step, sums = 0, no_sums(learner.engine.device)
            self._finish(0, None, time.monotonic(), 0.0)
        else:
            step, sums = self._resume(state)
        while step < plan.steps:
            step = self._epoch(step, sums)
            sums = no_sums(learner.engine.device)
        assert self.best is not None
        return Trained(self.best, tuple(self.rows))

    def _epoch(self, step: int, sums: Tensor) -> int:
        """Train to the end of the epoch that ``step`` lies in, and return the next step.

        Args:
            step: To begin with.
            sums: Losses of the epoch's steps before it.
        """
        learner, plan = self.learner, self.learner.plan
        epoch, first = divmod(step, plan.steps_an_epoch)
        keys = plan.keys(epoch, first, learner.engine.process_index)
        images = self.data.images if plan.augments(step) else self.data.images.plain
        pin = learner.engine.device.type == "cuda"
        parts = iter(batches_of(images, keys, self.workers, pin=pin))
        begun, end = step, step + len(keys) // learner.recipe.accumulate
        started = saved = time.monotonic()
        every = LOOK_EVERY.get(learner.engine.device.type, LOOK_EVERY["cuda"])
        while step < end:
            sums += learner.step(step, parts)
            step += 1
            self.listener.on_batch(plan.batch_size)
            if step < end and step % every:
                continue
            self._look_at(sums, step)
            # The loss is known to be finite here, and with the weights the state is one to go on from.
            due = step < end and time.monotonic() - saved > SAVE_EVERY
            if due and self.learner.is_finite:
                self._save(step, sums)
                saved = time.monotonic()
        speed = (step - begun) * plan.batch_size / (time.monotonic() - started)
        self._finish(step, sums / (step - epoch * plan.steps_an_epoch), started, speed)
        return step

    def _look_at(self, sums: Tensor, step: int) -> None:
        """Stop where the loss of any process is not finite."""
        total = cast("Tensor", self.learner.engine.reduce(sums, "sum"))
        if not bool(torch.isfinite(total).all()):
            raise self._diverged("the loss", step)

    def _look_at_network(self, step: int) -> None:
        """Stop where weights, their squares or what the network makes of noise are not finite."""
        chain = self.learner.average.snapshot()
        weights = torch.stack([tensor.square().sum() for tensor in chain.network.parameters()])
        with torch.inference_mode():
            logits = chain(seeded_images(chain.preprocessing, 1, seed=0))
        if not bool(weights.isfinite().all()) or not bool(logits.isfinite().all()):
            raise self._diverged("the network's output", step)

    def _diverged(self, what: str, step: int) -> TrainingError:
        return TrainingError(
            f"{what} is not finite at step {step} of {self.learner.plan.steps}",
            hint="lower the learning rate (--rate; of a healing --heal-rate)"
            + ("" if self.learner.recipe.clip else ", or clip the gradient with --clip 1"),
        )

    def _finish(self, step: int, means: Tensor | None, started: float, speed: float) -> None:
        """Measure after an epoch, keep the network where it is the best, write the state."""
        if step and self.data.held_out is None:  # nothing else would show what the last update did
            self._look_at_network(step)
        try:
            row = measure_epoch(self.learner, self.data, step, means, started, speed)
        except ArchitectureError as error:  # of logits; before any training it is the checkpoint's fault
            if step == 0:
                raise
            raise self._diverged("the network's output", step) from error
        # The untrained network is measured to compare with; it is no candidate.
        before = [old.score for old in self.rows if old.steps > 0 and old.score is not None]
        row = replace(row, best=row.score is None or not before or row.score <= min(before))
        self.rows.append(row)
        if row.best:
            self.best = self.learner.average.snapshot()
        self._save(step, no_sums(self.learner.engine.device))
        self._tell(best=row.best and step > 0)

    def _tell(self, *, best: bool) -> None:
        if self.learner.engine.is_main_process:
            if best and self.best is not None:
                self.listener.on_best(self.best, tuple(self.rows))
            self.listener.on_epoch(tuple(self.rows))

    def _save(self, step: int, sums: Tensor) -> None:
        if not self.learner.engine.is_main_process or self.best is None:
            return
        best = {"network": self.best.network.state_dict(), "exits": dict(self.best.exit_state)}
        rows = [asdict(row) for row in self.rows]
        self.listener.on_state(self.learner.state() | {"step": step, "sums": sums, "rows": rows, "best": best})

    def _resume(self, state: dict[str, Any]) -> tuple[int, Tensor]:
        """Take up a state; returns the next step and the losses of its epoch so far."""
        self.learner.load(state)
        self.rows = [_row(stored) for stored in state["rows"]]
        best = self.learner.student.snapshot()
        best.network.load_state_dict(state["best"]["network"])
        self.best = replace(best, exit_state=state["best"]["exits"])
        self.listener.on_batch(state["step"] * self.learner.plan.batch_size)
        # The run may have been killed after the state was written and before the network was.
        self._tell(best=self.rows[-1].steps > 0)
        return state["step"], state["sums"].to(self.learner.engine.device)


def _row(stored: dict[str, Any]) -> EpochRow:
    final = None if stored["final"] is None else Evaluation(**stored["final"])
    exits = tuple(Evaluation(**evaluation) for evaluation in stored["exits"])
    return EpochRow(
        **stored | {"final": final, "exits": exits, "zero_branches": tuple(stored["zero_branches"])}
    )
