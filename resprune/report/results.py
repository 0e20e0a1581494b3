"""Results as JSON objects; their keys are an interface and are only ever added to."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from resprune.records import (
    WHOLE,
    Analysis,
    Bounds,
    DataSummary,
    EpochRow,
    Evaluation,
    FinetuneOutcome,
    NetworkSummary,
    Preprocessing,
    PruneOutcome,
    PrunePlan,
    Recovery,
    Remedy,
)


def inspect(network: NetworkSummary, preprocessing: Preprocessing, classes: int) -> dict[str, Any]:
    """Return what ``resprune inspect --json`` prints."""
    architecture = network.architecture
    return _head("inspect", network) | {
        "format": network.origin.format,
        "stages": [stage.count(WHOLE) for stage in architecture.stages],
        "layout": list(architecture.stages),
        "options": dict(architecture.options),
        "classes": classes,
        "preprocessing": _recipe(preprocessing),
        "notes": list(network.origin.notes),
        "assumptions": [
            asdict(a) | {"others": [a.flag(value) for value in a.others]} for a in network.origin.assumptions
        ],
    }


def analyze(analysis: Analysis) -> dict[str, Any]:
    """Return what ``resprune analyze --json`` prints."""
    measured = analysis.trajectory
    return _head("analyze", analysis.network, analysis.data) | {
        "final": {
            "accuracy": measured.final.accuracy,
            "loss": measured.final.loss,
            "logits_norm": measured.final_norm,
        },
        "blocks": [asdict(row) for row in measured.rows],
        "tolerance": analysis.tolerance,
        "suggested_depth": analysis.suggested_depth,
    }


def made(command: str, seed: int) -> dict[str, Any]:
    """Return what is added about how an analysis was made."""
    libraries = {name: version(name) for name in ("torch", "timm")}
    versions = {"python": platform.python_version()} | libraries
    return {"made": {"command": command, "seed": seed, "versions": versions}}


def bounds(found: Bounds, sub: NetworkSummary) -> dict[str, Any]:
    """Return what ``resprune analyze --bounds`` adds: the terms of the paper's Tables 2 and 3."""
    return {
        "bounds": {
            "sub": _head("analyze", sub)["checkpoint"],
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


def prune(outcome: PruneOutcome) -> dict[str, Any]:
    """Return what ``resprune prune --json`` prints, but for ``output``."""
    report = planned(outcome.plan, outcome.origin, outcome.result, outcome.choice)
    report |= {"data": None if outcome.data is None else _data(outcome.data)}
    return report | {
        "before": _figures(outcome.before) | _size(outcome.origin),
        "raw": _figures(outcome.raw),
        "after": _figures(outcome.after) | _size(outcome.result),
        "recovery": None if outcome.recovered is None else recovery(outcome.recovered),
        "verified": asdict(outcome.verified) | {"samples": outcome.after.samples},
    }


def planned(
    chosen: PrunePlan, origin: NetworkSummary, result: NetworkSummary, choice: DataSummary | None
) -> dict[str, Any]:
    """Return what ``resprune prune --dry-run --json`` prints: the plan and the sizes, nothing carried out."""
    nothing = {"accuracy": None, "loss": None}
    return _head("prune", origin, choice) | {
        "choice": None if choice is None else _data(choice),
        "plan": plan(chosen),
        "before": nothing | _size(origin),
        "raw": nothing,
        "after": nothing | _size(result),
        "recovery": None,
        "verified": None,
        "output": None,
    }


def plan(chosen: PrunePlan) -> dict[str, Any]:
    """Return a plan as JSON."""
    return {
        "rule": chosen.rule,
        "removed": list(chosen.removed),
        "kept": list(chosen.kept),
        "depth": chosen.depth,
        "reasons": list(chosen.reasons),
    }


def recovery(tried: Recovery) -> dict[str, Any]:
    """Return a recovery as JSON; divergences in nats."""
    own = asdict(tried)
    return own | {"divergence": {"before": own.pop("before"), "after": own.pop("after")}}


def remedies(found: tuple[Remedy, ...]) -> dict[str, Any]:
    """Return what is added where the accuracy is that of a guess and other assumptions fit better."""
    return {"remedies": [asdict(remedy) for remedy in found]} if found else {}


def evaluate(network: NetworkSummary, data: DataSummary, evaluation: Evaluation) -> dict[str, Any]:
    """Return what ``resprune evaluate --json`` prints."""
    return _head("evaluate", network, data) | {
        "accuracy": evaluation.accuracy,
        "accuracy_top5": evaluation.accuracy_top5,
        "loss": evaluation.loss,
    }


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
    return _head("finetune", outcome.origin, outcome.data) | {
        "held_out": None if outcome.held_out is None else _data(outcome.held_out),
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
        "final": {"accuracy": None, "loss": None} if row.final is None else _figures(row.final),
        "exits": [_figures(evaluation) for evaluation in row.exits],
        "last_stage_accuracy": row.last_stage_accuracy,
        "zero_branches": list(row.zero_branches),
        "score": row.score,
        "best": row.best,
    }


def provenance(outcome: PruneOutcome | FinetuneOutcome) -> dict[str, Any]:
    """Return what a network's config says of its making."""
    origin = outcome.origin
    made: dict[str, Any] = {
        "version": version("resprune"),
        "torch": version("torch"),
        "origin": {
            "name": PurePath(origin.origin.path).name,
            "sha256": origin.origin.sha256,
            "architecture": origin.architecture.to_json(),
        },
    }
    if isinstance(outcome, FinetuneOutcome):
        return made | {"recipe": outcome.recipe.to_json(), "heads": outcome.heads, "epoch": outcome.best.epoch}
    made |= {"plan": plan(outcome.plan)}
    return made if outcome.recovered is None else made | {"recovery": recovery(outcome.recovered)}


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose paths are names only: a folder that travels says nothing of this machine."""
    report = dict(report)
    for key, name in (("checkpoint", "path"), ("data", "spec"), ("choice", "spec"), ("held_out", "spec")):
        if report.get(key):
            report[key] = report[key] | {name: PurePath(report[key][name]).name}
    return report


def _head(command: str, summary: NetworkSummary, data: DataSummary | None = None) -> dict[str, Any]:
    head: dict[str, Any] = {
        "schema": f"resprune/{command}/1",
        "version": version("resprune"),
        "checkpoint": {
            "path": summary.origin.path,
            "sha256": summary.origin.sha256,
            "family": summary.architecture.family,
            "architecture": summary.architecture.name,
            "blocks": summary.blocks,
            "parameters": summary.parameters,
            "macs": summary.macs,
        },
    }
    return head if data is None else head | {"data": _data(data)}


def _data(data: DataSummary) -> dict[str, Any]:
    summary: dict[str, Any] = {"spec": data.spec, "split": data.split, "samples": data.samples}
    recipe = data.preprocessing
    return summary if recipe is None else summary | {"preprocessing": _recipe(recipe)}


def _recipe(recipe: Preprocessing) -> dict[str, Any]:
    return recipe.to_json() | {"source": recipe.source}


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {"accuracy": evaluation.accuracy, "loss": evaluation.loss}


def _size(summary: NetworkSummary) -> dict[str, Any]:
    return {"parameters": summary.parameters, "macs": summary.macs}
