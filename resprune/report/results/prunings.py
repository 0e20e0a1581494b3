"""Results of pruning: plans, what carrying them out did, frontiers."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from resprune.records import (
    Alternative,
    DataSummary,
    Drop,
    Figures,
    Frontier,
    NetworkSummary,
    PruneOutcome,
    PrunePlan,
    Recovery,
    Rival,
)
from resprune.report.results import parts


def prune(outcome: PruneOutcome) -> dict[str, Any]:
    """Return what ``resprune prune --json`` prints, but for ``output``."""
    report = planned(outcome.plan, outcome.origin, outcome.result, outcome.choice)
    report |= {"data": None if outcome.data is None else parts.images(outcome.data)}
    return report | {
        "before": parts.figures(outcome.before) | parts.size(outcome.origin),
        "raw": parts.figures(outcome.raw),
        "after": parts.figures(outcome.after) | parts.size(outcome.result),
        "recovery": [recovery(tried) for tried in outcome.recovered],
        "controls": [
            {
                "kind": control.kind,
                "seed": control.seed,
                "removed": list(control.removed),
                "macs": control.macs,
                "raw": None if control.raw is None else parts.figures(control.raw),
                "after": parts.figures(control.after),
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
        parts.head("prune", origin, choice)
        | {
            "choice": None if choice is None else parts.images(choice),
            "plan": plan(chosen),
            "before": nothing | parts.size(origin),
            "raw": nothing,
            "after": nothing | parts.size(result),
            "recovery": [],
            "controls": [],
            "verified": None,
            "output": None,
        }
        | parts.read_back(None)
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
        "divergence": _finite(chosen.divergence),
        "speed": None if chosen.speed is None else asdict(chosen.speed),
        "drop": None if chosen.drop is None else _drop(chosen.drop),
        "beside": [_other(own) for own in chosen.beside],
        "rivals": [_other(own) for own in chosen.rivals],
    }


def _other(plan: Alternative | Rival) -> dict[str, Any]:
    return asdict(plan) | {"removed": list(plan.removed), "divergence": _finite(plan.divergence)}


def _drop(drop: Drop) -> dict[str, Any]:
    return asdict(drop) | {"interval": [drop.interval.low, drop.interval.high]}


def _finite(nats: float | None) -> float | None:
    """Return a divergence; JSON has no number for that of outputs that are not finite."""
    return nats if nats is not None and math.isfinite(nats) else None


def recovery(tried: Recovery) -> dict[str, Any]:
    """Return a recovery as JSON; divergences in nats."""
    measured = bool(tried.held_out)
    return {
        "kind": tried.kind,
        "split": tried.split,
        "images": tried.images,
        "held_out": tried.held_out,
        "divergence": {key: _finite(getattr(tried, key)) if measured else None for key in ("before", "after")},
        "kept": tried.kept,
        "removed": tried.removed,
        "figures": None if tried.figures is None else parts.figures(tried.figures),
        "recipe": None if tried.recipe is None else tried.recipe.to_json(),
    }


def frontier(found: Frontier) -> dict[str, Any]:
    """Return what ``resprune prune --frontier --json`` prints: one entry a depth, the network itself first."""
    whole = found.points[0].latency
    return parts.head("frontier", found.network, found.data) | {
        "choice": parts.images(found.choice),
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
                "latency_ms": {
                    "median": point.latency.median_ms,
                    "iqr": point.latency.iqr_ms,
                    "quartiles": list(point.latency.quartiles_ms),
                },
                "ratio": point.latency.ratio_to(whole).median,
                "raw": _judged(point.raw),
                "statistics": None if point.statistics is None else _judged(point.statistics),
                "recovered": _judged(point.recovered),
            }
            for point in found.points
        ],
    }


def _judged(figures: Figures) -> dict[str, Any]:
    return parts.figures(figures.evaluation) | {"divergence": figures.divergence}
