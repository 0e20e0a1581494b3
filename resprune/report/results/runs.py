"""Results of training, a line an epoch."""

from __future__ import annotations

from typing import Any

from resprune.records import EpochRow, FinetuneOutcome
from resprune.report.results import parts


def epochs(outcome: FinetuneOutcome) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, one object for every epoch."""
    best, lines = 0, []
    for row in outcome.rows:
        best = row.epoch if row.best else best
        lines.append(_epoch(outcome, row) | {"best_epoch": best})
    return lines


def finetune(outcome: FinetuneOutcome) -> dict[str, Any]:
    """Return what ``resprune finetune --json`` prints, but for ``output``: the last epoch's line."""
    return epochs(outcome)[-1]


def flat(line: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an object under one name each, as experiment trackers take them."""
    found: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict) and key in ("train", "final"):
            found |= {f"{key}/{name}": number for name, number in value.items() if number is not None}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = value
    for k, figures in enumerate(line.get("exits", ())):
        found |= {f"exit_{name}/{k}": number for name, number in figures.items() if number is not None}
    return found | {"zero_branches": len(line.get("zero_branches", ()))}


def _epoch(outcome: FinetuneOutcome, row: EpochRow) -> dict[str, Any]:
    return parts.head("finetune", outcome.origin, outcome.data) | {
        "held_out": None if outcome.held_out is None else parts.images(outcome.held_out),
        "teacher": None
        if outcome.teacher is None
        else {"path": outcome.teacher, "sha256": outcome.teacher_sha256},
        "epoch": row.epoch,
        "epochs": outcome.epochs,
        "steps": row.steps,
        "seconds": row.seconds,
        "images_per_second": row.images_per_second,
        "rate": row.rate,
        "gamma": row.gamma,
        "train": {
            "objective": row.objective,
            "loss": row.train_loss,
            "exit_loss": row.train_exit_loss,
            "distillation": row.train_distillation,
            "branch_penalty": row.branch_penalty,
        },
        "final": {"accuracy": None, "loss": None} if row.final is None else parts.figures(row.final),
        "exits": [parts.figures(evaluation) for evaluation in row.exits],
        "last_stage_accuracy": row.last_stage_accuracy,
        "zero_branches": list(row.zero_branches),
        "score": row.score,
        "best": row.best,
    }
