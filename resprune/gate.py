"""Figures and limits become verdicts; pure.

A figure that was measured on images is one of many that other images would have given. A gate that compares it
with its limit alone flips from one draw to the next. So a condition fails only where the whole confidence
interval is beyond the limit: then the network, and not the draw, is at fault. A figure beyond its limit whose
interval reaches the limit passes with a note. ``strict`` lets the figure decide by itself. What does not vary
(sizes, hashes) has no interval, and the figure decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from resprune import intervals
from resprune.errors import UsageError
from resprune.plurals import counted
from resprune.records import (
    BenchOutcome,
    Condition,
    Drop,
    Evaluation,
    Interval,
    Likeness,
    Limits,
    Outcomes,
    flag,
)

CONFIDENCE = 0.95
"""Of intervals, where nobody says otherwise."""
NO_LABELS = "the images have no labels"
NOT_KNOWN = "not known of an ONNX file"


@dataclass(frozen=True)
class Rule:
    """How figures are held against limits.

    Attributes:
        confidence: Of the intervals, from 0.5 to below 1.
        strict: Let figures decide by themselves.
    """

    confidence: float = CONFIDENCE
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1:
            raise UsageError(
                f"--confidence is a fraction from 0.5 to below 1, got {self.confidence:g}",
                hint="for example 0.95",
            )

    def judge(
        self,
        name: str,
        unit: str,
        measured: float,
        limit: float,
        *,
        upper: bool = True,
        interval: Interval | None = None,
        detail: str = "",
    ) -> Condition:
        """Return a condition with its verdict; see `Condition` for the arguments."""
        beyond = measured > limit if upper else measured < limit
        reaches = interval is not None and (interval.low <= limit if upper else interval.high >= limit)
        excused = beyond and reaches and not self.strict
        verdict = "failed" if beyond and not excused else "passed"
        return Condition(name, unit, measured, limit, upper, interval, verdict, excused, detail)


def unmeasured(name: str, unit: str, limit: float, why: str, *, upper: bool = True) -> Condition:
    """Return a condition that could not be measured."""
    return Condition(name, unit, None, limit, upper, None, "not measured", False, why)


def max_drop(limit: float, like: Likeness, rule: Rule) -> Condition:
    """Hold the accuracy that the second network lost, in points, against a limit.

    Only images that one of both alone gets right count: the interval is of paired outcomes.
    """
    found = like.outcomes
    if found is None:
        return unmeasured("max-drop", "points", limit, NO_LABELS)
    drop = drop_of(found, rule.confidence)
    detail = f"{found.only_first:,} of {found.images:,} images lost, {found.only_second:,} won"
    return rule.judge("max-drop", "points", drop.points, limit, interval=drop.interval, detail=detail)


def drop_of(found: Outcomes, confidence: float = CONFIDENCE) -> Drop:
    """Return the accuracy that the second network lost, and where that lies."""
    lost, won, images = found.only_first, found.only_second, found.images
    interval = _points(intervals.of_paired_difference(lost, won, images, confidence))
    # The division comes last: 7 of 2,000 images are 0.35 points, and not a rounding error more.
    return Drop(100 * (lost - won) / images, images, interval)


def min_accuracy(limit: float, figures: Evaluation, rule: Rule) -> Condition:
    """Hold a network's accuracy against a limit; both fractions of one."""
    if figures.accuracy is None:
        return unmeasured("min-accuracy", "fraction", limit, NO_LABELS, upper=False)
    return _proportion("min-accuracy", figures.accuracy, figures.samples, "right", limit, rule)


def min_agreement(limit: float, like: Likeness, rule: Rule) -> Condition:
    """Hold the fraction of images with the same top class against a limit."""
    return _proportion("min-agreement", like.agreement, like.samples, "alike", limit, rule)


def max_loss_increase(limit: float, like: Likeness, rule: Rule) -> Condition:
    """Hold the loss that the second network has more, in nats, against a limit.

    The interval is of the differences image by image.
    """
    before, after, deviation = like.first.loss, like.second.loss, like.loss_deviation
    if before is None or after is None:
        return unmeasured("max-loss-increase", "nats", limit, NO_LABELS)
    measured = after - before
    interval = None
    if deviation is not None:
        interval = intervals.of_mean(measured, deviation, like.samples, rule.confidence)
    detail = f"from {before:.4f} to {after:.4f}"
    return rule.judge("max-loss-increase", "nats", measured, limit, interval=interval, detail=detail)


def max_size(name: str, unit: str, limit: float, own: int | None, its: int | None, rule: Rule) -> Condition:
    """Hold a count against a limit, which is a fraction of the other network's count if it is at most 1."""
    relative = limit <= 1
    if own is None or (relative and its is None):
        return unmeasured(name, "fraction" if relative else unit, limit, NOT_KNOWN)
    if not relative:
        return rule.judge(name, unit, own, limit)
    assert its is not None
    return rule.judge(name, "fraction", own / its, limit, detail=f"{own:,} of {its:,} {unit}")


def min_speedup(limit: float, outcome: BenchOutcome, rule: Rule) -> Condition:
    """Hold how many times as fast as the other a network is against a limit; median over rounds.

    The interval takes rounds for independent, which they are about.
    """
    assert outcome.against is not None
    first, other = outcome.first.latency, outcome.against.latency
    speeds = [its / own for own, its in zip(first.samples_ms, other.samples_ms, strict=True)]
    interval = intervals.of_median(speeds, rule.confidence)
    images, threads = counted(first.batch_size, "image"), counted(first.threads, "thread")
    detail = f"{images} a call, {first.device}, {threads}, {counted(first.rounds, 'round')}"
    measured = median(speeds)
    return rule.judge("min-speedup", "times", measured, limit, upper=False, interval=interval, detail=detail)


def max_residual_tail(limit: float, start: int, norms: tuple[float, ...], rule: Rule) -> Condition:
    """Hold the largest relative residual norm from a block on against a tolerance."""
    tail = norms[start:]
    if not tail:
        detail = f"there is no block {start} or later ({len(norms)} blocks)"
        return rule.judge("max-residual-tail", "relative norm", 0.0, limit, detail=detail)
    worst = max(range(len(tail)), key=tail.__getitem__)
    detail = f"block {start + worst}, the largest of blocks {start} to {len(norms) - 1}"
    return rule.judge("max-residual-tail", "relative norm", tail[worst], limit, detail=detail)


def check_limits(limits: Limits, *, against: bool, images: bool) -> None:
    """Refuse conditions that lack what they need.

    Raises:
        UsageError: says what to give.
    """
    if limits.of_two and not against:
        raise UsageError(
            f"{flag(limits.of_two[0])} compares with another network", hint="name it with --against"
        )
    if limits.of_images and not images:
        raise UsageError(f"{flag(limits.of_images[0])} needs images", hint="name some with --data")


def _proportion(name: str, value: float, images: int, kind: str, limit: float, rule: Rule) -> Condition:
    hits = round(value * images)
    interval = intervals.of_proportion(hits, images, rule.confidence)
    detail = f"{hits:,} of {images:,} images {kind}"
    return rule.judge(name, "fraction", hits / images, limit, upper=False, interval=interval, detail=detail)


def _points(interval: Interval) -> Interval:
    return Interval(100 * interval.low, 100 * interval.high)
