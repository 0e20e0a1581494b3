"""Results of one network as it is: what it is, what its blocks do, how good it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from resprune.records import (
    WHOLE,
    Analysis,
    Band,
    Bounds,
    Classwise,
    DataSummary,
    Evaluation,
    NetworkSummary,
    Preprocessing,
    Subject,
)
from resprune.report.results import parts


def inspect(network: NetworkSummary, preprocessing: Preprocessing, classes: int) -> dict[str, Any]:
    """Return what ``resprune inspect --json`` prints."""
    architecture = network.architecture
    return parts.head("inspect", network) | {
        "format": network.origin.format,
        "stages": [stage.count(WHOLE) for stage in architecture.stages],
        "layout": list(architecture.stages),
        "options": dict(architecture.options),
        "classes": classes,
        "preprocessing": parts.recipe(preprocessing),
        "notes": list(network.origin.notes),
        "assumptions": [
            asdict(a) | {"others": [a.flag(value) for value in a.others]} for a in network.origin.assumptions
        ],
    }


def analyze(analysis: Analysis) -> dict[str, Any]:
    """Return what ``resprune analyze --json`` prints."""
    measured = analysis.trajectory
    return parts.head("analyze", analysis.network, analysis.data) | {
        "final": {
            "accuracy": measured.final.accuracy,
            "loss": measured.final.loss,
            "logits_norm": measured.final_norm,
        },
        "blocks": [asdict(row) for row in measured.rows],
        "tolerance": analysis.tolerance,
        "suggested_depth": analysis.suggested_depth,
        "control": None if analysis.control is None else _band(analysis.control),
        "classwise": None if measured.classwise is None else _classwise(measured.classwise),
    }


def _classwise(found: Classwise) -> dict[str, Any]:
    labels = range(len(found.counts))
    return {
        "names": None if found.names is None else list(found.names),
        "counts": list(found.counts),
        "accuracy": [[found.accuracy(k, label) for label in labels] for k in range(len(found.hits))],
    }


def _band(band: Band) -> dict[str, Any]:
    return {
        "removed": band.removed,
        "change_relative": list(band.change_relative),
        "agreement": list(band.agreement),
    }


def bounds(found: Bounds, sub: NetworkSummary) -> dict[str, Any]:
    """Return what ``resprune analyze --bounds`` adds: the terms of the paper's Tables 2 and 3."""
    return {
        "bounds": {
            "sub": parts.head("analyze", sub)["checkpoint"],
            "gamma": found.gamma,
            "lambda": found.branch_decay,
            "L_bar": found.sub_loss,
            "bound_1": {"J": found.objective, "J_bar": found.objective_bound, "gap": found.objective_gap},
            "bound_2": {
                "L_avg": found.average_loss,
                "L_bar_avg": found.average_loss_bound,
                "gap": found.average_loss_gap,
            },
        }
    }


def evaluate(network: Subject, data: DataSummary, evaluation: Evaluation) -> dict[str, Any]:
    """Return what ``resprune evaluate --json`` prints."""
    return parts.head("evaluate", network, data) | {
        "accuracy": evaluation.accuracy,
        "accuracy_top5": evaluation.accuracy_top5,
        "loss": evaluation.loss,
    }
