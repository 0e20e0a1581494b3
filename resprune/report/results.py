"""Results as JSON objects; their keys are an interface and are only ever added to."""

from __future__ import annotations

import platform
import shlex
from dataclasses import asdict
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

from resprune.records import (
    WHOLE,
    Analysis,
    Band,
    BenchOutcome,
    Bounds,
    CheckOutcome,
    Classwise,
    Comparison,
    Condition,
    DataSummary,
    EpochRow,
    Evaluation,
    ExportOutcome,
    Figures,
    FinetuneOutcome,
    Frontier,
    NetworkSummary,
    Outcomes,
    Preprocessing,
    PruneOutcome,
    PrunePlan,
    ReadBack,
    Recovery,
    Remedy,
    Subject,
    Timing,
)

LIBRARIES = ("torch", "timm", "torchvision", "numpy", "pillow")
"""What figures and weights depend on besides resprune and Python."""


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
        "control": None if analysis.control is None else _band(analysis.control),
        "classwise": None if measured.classwise is None else _classwise(measured.classwise),
    }


def made(
    command: str, seed: int, *, threads: int | None = None, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what is added about how a result was made.

    Args:
        command: As it was typed.
        seed: Of everything drawn.
        threads: CPU threads of torch.
        config: Name, hash and options of the file that ``--config`` named.
    """
    libraries = {name: version(name) for name in LIBRARIES}
    versions = {"python": platform.python_version()} | libraries
    return {
        "made": {"command": command, "seed": seed, "versions": versions, "threads": threads, "config": config}
    }


def command_of(made: dict[str, Any] | None) -> str:
    """Return the command of what `made` returned; empty where there is none."""
    return (made or {}).get("made", {}).get("command", "")


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


def prune(outcome: PruneOutcome) -> dict[str, Any]:
    """Return what ``resprune prune --json`` prints, but for ``output``."""
    report = planned(outcome.plan, outcome.origin, outcome.result, outcome.choice)
    report |= {"data": None if outcome.data is None else _data(outcome.data)}
    return report | {
        "before": _figures(outcome.before) | _size(outcome.origin),
        "raw": _figures(outcome.raw),
        "after": _figures(outcome.after) | _size(outcome.result),
        "recovery": [recovery(tried) for tried in outcome.recovered],
        "controls": [
            {
                "kind": control.kind,
                "seed": control.seed,
                "removed": list(control.removed),
                "macs": control.macs,
                "raw": None if control.raw is None else _figures(control.raw),
                "after": _figures(control.after),
            }
            for control in outcome.controls
        ],
        "verified": asdict(outcome.verified) | {"samples": outcome.after.samples},
    }


def planned(
    chosen: PrunePlan, origin: NetworkSummary, result: NetworkSummary, choice: DataSummary | None
) -> dict[str, Any]:
    """Return what ``resprune prune --dry-run --json`` prints: the plan and the sizes, nothing carried out."""
    nothing = {"accuracy": None, "loss": None}
    return (
        _head("prune", origin, choice)
        | {
            "choice": None if choice is None else _data(choice),
            "plan": plan(chosen),
            "before": nothing | _size(origin),
            "raw": nothing,
            "after": nothing | _size(result),
            "recovery": [],
            "controls": [],
            "verified": None,
            "output": None,
        }
        | read_back(None)
    )


def plan(chosen: PrunePlan) -> dict[str, Any]:
    """Return a plan as JSON."""
    return {
        "rule": chosen.rule,
        "removed": list(chosen.removed),
        "kept": list(chosen.kept),
        "depth": chosen.depth,
        "reasons": list(chosen.reasons),
        "order": list(chosen.order),
        "divergence": chosen.divergence,
        "speed": None if chosen.speed is None else asdict(chosen.speed),
        "beside": [asdict(other) | {"removed": list(other.removed)} for other in chosen.beside],
    }


def frontier(found: Frontier) -> dict[str, Any]:
    """Return what ``resprune prune --frontier --json`` prints: one entry a depth, the network itself first."""
    whole = found.points[0].latency
    return _head("frontier", found.network, found.data) | {
        "choice": _data(found.choice),
        "method": found.method,
        "order": list(found.order),
        "threads": whole.threads,
        "device": whole.device,
        "batch_size": whole.batch_size,
        "frontier": [
            {
                "removed": list(point.removed),
                "blocks": point.blocks,
                "macs": point.macs,
                "parameters": point.parameters,
                "latency_ms": {"median": point.latency.median_ms, "iqr": point.latency.iqr_ms},
                "ratio": point.latency.ratio_to(whole).median,
                "raw": _judged(point.raw),
                "statistics": None if point.statistics is None else _judged(point.statistics),
                "recovered": _judged(point.recovered),
            }
            for point in found.points
        ],
    }


def _judged(figures: Figures) -> dict[str, Any]:
    return _figures(figures.evaluation) | {"divergence": figures.divergence}


def recovery(tried: Recovery) -> dict[str, Any]:
    """Return a recovery as JSON; divergences in nats."""
    measured = bool(tried.held_out)
    return {
        "kind": tried.kind,
        "split": tried.split,
        "images": tried.images,
        "held_out": tried.held_out,
        "divergence": {key: getattr(tried, key) if measured else None for key in ("before", "after")},
        "kept": tried.kept,
        "removed": tried.removed,
        "figures": None if tried.figures is None else _figures(tried.figures),
        "recipe": None if tried.recipe is None else tried.recipe.to_json(),
    }


def read_back(found: ReadBack | None) -> dict[str, Any]:
    """Return what is added about reading a folder back; None where it was not."""
    told = None if found is None else asdict(found) | {"readers": list(found.readers)}
    return {"read_back": told}


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


def bench(outcome: BenchOutcome) -> dict[str, Any]:
    """Return what ``resprune bench --json`` prints; ``ratio`` is the time of the first over the other's."""
    first, other, ratio = outcome.first, outcome.against, outcome.ratio
    report = _head("bench", first.subject) | _timing(first)
    report |= {
        "rounds": first.latency.rounds,
        "threads": first.latency.threads,
        "device": first.latency.device,
        "batch_size": first.latency.batch_size,
        "input": list(outcome.shape),
        "channels_last": outcome.channels_last,
    }
    if other is None or ratio is None:
        return report
    beside = {"checkpoint": _checkpoint(other.subject)} | _timing(other)
    return report | {
        "against": beside,
        "ratio": ratio.median,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def compare(comparison: Comparison) -> dict[str, Any]:
    """Return what ``resprune compare --json`` prints; noise tells of the logits' differences only."""
    like, names = comparison.likeness, comparison.class_names
    seen = comparison.data is not None

    def named(label: int | None) -> dict[str, Any] | None:
        return None if label is None else {"index": label, "name": names[label] if names else None}

    listed = [
        {
            "index": own.index,
            "image": own.image,
            "label": named(own.label),
            "checkpoint": named(own.first),
            "against": named(own.second),
        }
        for own in like.disagreements
    ]
    outcomes = like.outcomes
    return _head("compare", comparison.first, comparison.data) | {
        "inputs": "images" if seen else "seeded noise",
        "samples": like.samples,
        "agreement": like.agreement if seen else None,
        "max_abs_difference": like.max_abs_difference,
        "max_rel_difference": like.max_rel_difference,
        "divergence": like.divergence if seen else None,
        **_figures(like.first),
        "against": {"checkpoint": _checkpoint(comparison.second)} | _figures(like.second),
        "outcomes": None
        if outcomes is None
        else {
            "both": outcomes.both,
            "only_checkpoint": outcomes.only_first,
            "only_against": outcomes.only_second,
            "neither": outcomes.neither,
        },
        "disagreements": {"count": like.differing, "limit": comparison.limit, "images": listed}
        if seen
        else None,
    }


def check(outcome: CheckOutcome) -> dict[str, Any]:
    """Return what ``resprune check --json`` prints."""
    own, its, outcomes = outcome.figures, outcome.figures_against, outcome.outcomes
    nothing = {"accuracy": None, "loss": None}
    beside = None
    if outcome.against is not None:
        beside = {"checkpoint": _checkpoint(outcome.against)} | (nothing if its is None else _figures(its))
    return (
        _head("check", outcome.candidate, outcome.data)
        | (nothing if own is None else _figures(own))
        | {
            "against": beside,
            "outcomes": None if outcomes is None else _outcomes(outcomes),
            "confidence": outcome.confidence,
            "strict": outcome.strict,
            "conditions": [_condition(condition) for condition in outcome.conditions],
            "verdict": outcome.verdict,
            "exit_status": outcome.exit_status,
        }
    )


def _condition(condition: Condition) -> dict[str, Any]:
    own = condition.interval
    return asdict(condition) | {"interval": None if own is None else [own.low, own.high]}


def _outcomes(outcomes: Outcomes) -> dict[str, int]:
    return {
        "both": outcomes.both,
        "only_checkpoint": outcomes.only_second,
        "only_against": outcomes.only_first,
        "neither": outcomes.neither,
    }


def export(outcome: ExportOutcome) -> dict[str, Any]:
    """Return what ``resprune export --json`` prints."""
    origin, result = outcome.origin, outcome.result
    restored = {
        "blocks": result.blocks - origin.blocks,
        "parameters": result.parameters - origin.parameters,
        "macs": result.macs - origin.macs,
    }
    return _head("export", origin) | {
        "format": outcome.format,
        "zeroed": restored if restored["blocks"] else None,
        "folded": outcome.folded,
        "merged": outcome.merged,
        "verified": asdict(outcome.verified) | {"samples": outcome.samples},
        "output": {"folder": outcome.folder, "files": list(outcome.files)},
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
    return made | {"recovery": [recovery(tried) for tried in outcome.recovered]}


_PATHS = (
    ("checkpoint", "path"),
    ("teacher", "path"),
    ("data", "spec"),
    ("choice", "spec"),
    ("held_out", "spec"),
)


def portable(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose paths are names only: a folder that travels says nothing of this machine."""
    report = dict(report)
    for key, name in _PATHS:
        if report.get(key):
            report[key] = report[key] | {name: PurePath(report[key][name]).name}
    if report.get("made"):
        how = report["made"]
        words = shlex.join(_name_of(word) for word in shlex.split(how["command"]))
        report["made"] = how | {"command": words}
        if how["config"] is not None:
            config = how["config"]
            given = {key: _portable_value(value) for key, value in config["options"].items()}
            report["made"] |= {"config": config | {"file": _name_of(config["file"]), "options": given}}
    return report


def _name_of(word: str) -> str:
    """Return a word of a command, a path in it cut to its name."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (PurePath(value).name if "/" in value else value)


def _portable_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_name_of(item) for item in value]
    return _name_of(value) if isinstance(value, str) else value


def _head(command: str, subject: Subject, data: DataSummary | None = None) -> dict[str, Any]:
    head: dict[str, Any] = {
        "schema": f"resprune/{command}/1",
        "version": version("resprune"),
        "checkpoint": _checkpoint(subject),
    }
    return head if data is None else head | {"data": _data(data)}


def _checkpoint(subject: Subject) -> dict[str, Any]:
    origin = subject.origin if isinstance(subject, NetworkSummary) else subject
    known: dict[str, Any] = {"path": origin.path, "sha256": origin.sha256}
    if not isinstance(subject, NetworkSummary):  # of an ONNX file nothing more is known
        return known | dict.fromkeys(("family", "architecture", "blocks", "parameters", "macs"))
    return known | {
        "family": subject.architecture.family,
        "architecture": subject.architecture.name,
        "blocks": subject.blocks,
        "parameters": subject.parameters,
        "macs": subject.macs,
    }


def _timing(timing: Timing) -> dict[str, Any]:
    latency = timing.latency
    return {
        "mode": timing.mode,
        "latency_ms": {"median": latency.median_ms, "iqr": latency.iqr_ms},
        "throughput": latency.throughput,
        "peak_memory_bytes": timing.peak_bytes,
    }


def _data(data: DataSummary) -> dict[str, Any]:
    summary: dict[str, Any] = {"spec": data.spec, "split": data.split, "samples": data.samples}
    if data.sha256:
        summary |= {"sha256": data.sha256, "sha256_of": data.sha256_of}
    recipe = data.preprocessing
    return summary if recipe is None else summary | {"preprocessing": _recipe(recipe)}


def _recipe(recipe: Preprocessing) -> dict[str, Any]:
    return recipe.to_json() | {"source": recipe.source}


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {"accuracy": evaluation.accuracy, "loss": evaluation.loss}


def _size(summary: NetworkSummary) -> dict[str, Any]:
    return {"parameters": summary.parameters, "macs": summary.macs}
