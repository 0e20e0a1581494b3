"""What an epoch brought, measured on the held-out images."""

from __future__ import annotations

import time
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor

from resprune.data import Batches, TrainingData
from resprune.memory import pass_over
from resprune.reading import silent
from resprune.records import EpochRow, Evaluation
from resprune.stage_cost import branch_penalty, zero_branches
from resprune.training.learner import Learner
from resprune.training.student import Student
from resprune.trajectory import Tally


def measure_epoch(
    learner: Learner, data: TrainingData, step: int, sums: Tensor | None, started: float, speed: float
) -> EpochRow:
    """Measure after ``step`` steps; the row's ``best`` is not decided yet.

    Args:
        learner: Of the run.
        data: Of the run; without images held out nothing is measured.
        step: Steps done.
        sums: Mean losses of the epoch over this process's steps; None before any training.
        started: `time.monotonic` at the epoch's beginning.
        speed: Images a second in training.
    """
    student, plan, recipe = learner.average, learner.plan, learner.recipe
    _share_statistics(learner)
    tally = None if data.held_out is None else _measure(student, data.held_out, learner.engine)
    exits = () if tally is None else tuple(tally.result(k) for k in range(tally.networks - 1))
    final = None if tally is None else tally.result()
    stages = [block.stage for block in student.chain.blocks]
    last = [own.accuracy for own, stage in zip(exits, stages, strict=False) if stage == max(stages)]
    penalty = branch_penalty(student.chain, recipe.branch_decay)
    losses = [None] * 4
    if sums is not None:
        losses = cast("Tensor", learner.engine.reduce(sums, "mean")).tolist()
        losses[0] += penalty
    return EpochRow(
        epoch=-(-step // plan.steps_an_epoch),
        steps=step,
        seconds=time.monotonic() - started,
        images_per_second=speed or None,
        rate=plan.rate(max(0, step - 1)),
        gamma=plan.gamma(max(0, step - 1)),
        objective=losses[0],
        train_loss=losses[1] if data.labelled else None,
        train_exit_loss=losses[2] if student.exits is not None else None,
        train_distillation=losses[3] if learner.teacher is not None and recipe.teacher_weight else None,
        branch_penalty=penalty,
        zero_branches=zero_branches(student.chain),
        final=final,
        exits=exits,
        last_stage_accuracy=_mean(last),
        score=score(final, exits, plan.gamma(plan.steps - 1)),
        best=False,
    )


def score(final: Evaluation | None, exits: tuple[Evaluation, ...], gamma: float) -> float | None:
    """Return ``error(yhat_N) + gamma sum_k error(yhat_k)``: the stage cost, errors in the place of losses."""
    if final is None or final.accuracy is None:
        return None
    return 1 - final.accuracy + gamma * sum(1 - own.accuracy for own in exits if own.accuracy is not None)


def _share_statistics(learner: Learner) -> None:
    """Let all processes measure the network that is written: norms that are not synced differ in statistics."""
    if learner.engine.num_processes > 1:
        for network in dict.fromkeys((learner.student, learner.average)):
            for buffer in network.buffers():
                if buffer.is_floating_point():
                    broadcast(buffer)


def _measure(student: Student, batches: Batches, engine: Accelerator) -> Tally:
    """Return the figures of all exits, every process measuring its share of the images."""
    if engine.num_processes == 1:
        return pass_over(batches, lambda images, _: _tally(student, images, engine), silent, "measure")
    tally = _tally(student, batches, engine)  # shares are of batches, which all processes must cut alike
    tally.combine(lambda sums: cast("Tensor", engine.reduce(sums.to(engine.device), "sum")).cpu())
    return tally


@torch.inference_mode()
def _tally(student: Student, batches: Batches, engine: Accelerator) -> Tally:
    """Return the figures of this process's share."""
    tally = Tally(1 if student.exits is None else student.chain.depth + 1)
    training, device = student.training, engine.device
    student.eval()
    try:
        for index, (images, labels) in enumerate(batches):
            if index % engine.num_processes == engine.process_index:
                x = images.to(device, memory_format=torch.channels_last)
                tally.add(student.forward(x)[0], None if labels is None else labels.to(device))
    finally:
        student.train(training)
    return tally


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
