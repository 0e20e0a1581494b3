"""Confidence intervals of what is measured on a sample of images, or on rounds of a measurement.

All are two-sided. They speak of images like those that were drawn, and of none else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

from resprune.records import Interval

_HALVINGS = 100
"""After so many, an interval in double precision cannot be halved any more."""


def of_proportion(hits: int, images: int, confidence: float) -> Interval:
    """Return Wilson's score interval of a single proportion.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the
    American Statistical Association 22 (1927).

    Args:
        hits: Images of the kind that is counted.
        images: All images, at least 1.
        confidence: Above 0 and below 1.
    """
    z = _z(confidence)
    p = hits / images
    centre = p + z * z / (2 * images)
    half = z * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    scale = 1 + z * z / images
    # At the ends of the range rounding may leave the proportion itself outside.
    return Interval(min(max((centre - half) / scale, 0.0), p), max(min((centre + half) / scale, 1.0), p))


def of_paired_difference(lost: int, won: int, images: int, confidence: float) -> Interval:
    """Return Tango's asymptotic score interval of a difference of two proportions on the same images.

    The difference is ``(lost - won) / images``. Images that both get right, or both wrong, tell nothing of it.
    All differences that a score test does not reject are in the interval; the test's variance is that of the
    most likely proportions with this difference. It keeps its width where there is no discordant image at all.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17 (1998).

    Args:
        lost: Images that only the first gets right.
        won: Images that only the second gets right.
        images: All images, at least 1.
        confidence: Above 0 and below 1.
    """
    z = _z(confidence)
    measured = (lost - won) / images

    def score(difference: float) -> float:
        # The most likely proportion of `won` given the difference: the root of a quadratic equation.
        b = (2 * images - lost + won) * difference - lost - won
        c = -won * difference * (1 - difference)
        root = math.sqrt(max(b * b - 8 * images * c, 0.0))
        # Without cancellation where b is positive.
        likely = -2 * c / (b + root) if b > 0 else (root - b) / (4 * images)
        variance = images * (2 * likely + difference * (1 - difference))
        surplus = lost - won - images * difference
        if variance <= 0:
            return math.copysign(math.inf, surplus) if surplus else 0.0
        return surplus / math.sqrt(variance)

    # The score falls as the difference grows.
    low = _crossing(lambda difference: score(difference) <= z, -1.0, measured)
    high = _crossing(lambda difference: score(difference) < -z, measured, 1.0)
    return Interval(low, high)


def of_mean(mean: float, deviation: float, count: int, confidence: float) -> Interval | None:
    """Return the normal interval of a mean, by the central limit theorem; None for a single value.

    Args:
        mean: Of the values.
        deviation: Their standard deviation, with ``count - 1`` in the denominator.
        count: Of the values.
        confidence: Above 0 and below 1.
    """
    if count < 2:
        return None
    half = _z(confidence) * deviation / math.sqrt(count)
    return Interval(mean - half, mean + half)


def of_median(values: Sequence[float], confidence: float) -> Interval | None:
    """Return the interval of a median between two of the values, whatever they are distributed like.

    A value is below the true median as often as not, so the number of values below it is binomial. The interval
    is the narrowest of ranks k and n + 1 - k that holds the median with at least this confidence; None where
    there are too few values for any.

    Source: H. A. David, H. N. Nagaraja, Order Statistics, 3rd edition (2003), section 7.1.

    Args:
        values: Independent measurements.
        confidence: Above 0 and below 1.
    """
    count, ordered = len(values), sorted(values)
    outside, rank = 0.0, 0  # probability that fewer than `rank` values are below the median
    while rank < count // 2:
        probability = outside + math.exp(
            math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1) - count * math.log(2)
        )
        if probability > (1 - confidence) / 2:
            break
        outside, rank = probability, rank + 1
    return Interval(ordered[rank - 1], ordered[count - rank]) if rank else None


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _crossing(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition begins to hold, between a point where it does not and one where it does."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2
