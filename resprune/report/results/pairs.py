"""Results of two networks beside each other: timed, compared, held against limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from resprune.records import BenchOutcome, CheckOutcome, Comparison, Condition, Outcomes, Timing
from resprune.report.results import parts


def bench(outcome: BenchOutcome) -> dict[str, Any]:
    """Return what ``resprune bench --json`` prints; ``ratio`` is the time of the first over the other's."""
    first, other, ratio = outcome.first, outcome.against, outcome.ratio
    report = parts.head("bench", first.subject) | _timing(first)
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
    beside = {"checkpoint": parts.network(other.subject)} | _timing(other)
    return report | {
        "against": beside,
        "ratio": ratio.median,
        "ratio_quartiles": [ratio.low, ratio.high],
    }


def _timing(timing: Timing) -> dict[str, Any]:
    latency = timing.latency
    return {
        "mode": timing.mode,
        "latency_ms": {"median": latency.median_ms, "iqr": latency.iqr_ms},
        "throughput": latency.throughput,
        "peak_memory_bytes": timing.peak_bytes,
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
    return parts.head("compare", comparison.first, comparison.data) | {
        "inputs": "images" if seen else "seeded noise",
        "samples": like.samples,
        "agreement": like.agreement if seen else None,
        "max_abs_difference": like.max_abs_difference,
        "max_rel_difference": like.max_rel_difference,
        "divergence": like.divergence if seen else None,
        **parts.figures(like.first),
        "against": {"checkpoint": parts.network(comparison.second)} | parts.figures(like.second),
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
        beside = {"checkpoint": parts.network(outcome.against)} | (
            nothing if its is None else parts.figures(its)
        )
    return (
        parts.head("check", outcome.candidate, outcome.data)
        | (nothing if own is None else parts.figures(own))
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
