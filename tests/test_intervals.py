"""Confidence intervals: against a published example, brute force and coverage."""

from __future__ import annotations

import math
from itertools import pairwise, product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resprune import intervals

Z95 = NormalDist().inv_cdf(0.975)


def binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def trinomial(n: int, b: int, c: int, p: float, q: float) -> float:
    return math.comb(n, b) * math.comb(n - b, c) * p**b * q**c * max(1 - p - q, 0.0) ** (n - b - c)


def brute_score(lost: int, won: int, images: int, difference: float) -> float:
    """The score statistic, its nuisance proportion found on a fine grid instead of by Tango's formula."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    q = np.linspace(low, high, 400_001)[1:-1]
    p, rest = q + difference, 1 - 2 * q - difference
    log_likelihood = images * 0 * q
    for count, probability in ((lost, p), (won, q), (images - lost - won, rest)):
        if count:
            log_likelihood = log_likelihood + count * np.log(probability)
    likely = float(q[np.argmax(log_likelihood)])
    variance = images * (2 * likely + difference - difference**2)
    return (lost - won - images * difference) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Fagerland, Lydersen, Laake (2014), airway hyper-responsiveness: 1 against 7 of 21 pairs.
        ((1, 7, 21), (-0.517, -0.026)),
    ],
)
def test_a_published_example(counts: tuple[int, int, int], expected: tuple[float, float]) -> None:
    found = intervals.of_paired_difference(*counts, 0.95)
    assert (found.low, found.high) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("counts", [(1, 7, 21), (7, 1, 21), (3, 3, 40), (0, 5, 12), (40, 25, 500), (0, 1, 9)])
def test_the_ends_are_where_the_score_test_begins_to_reject(counts: tuple[int, int, int]) -> None:
    found = intervals.of_paired_difference(*counts, 0.95)
    assert brute_score(*counts, found.low) == pytest.approx(Z95, abs=2e-3)
    assert brute_score(*counts, found.high) == pytest.approx(-Z95, abs=2e-3)


@pytest.mark.parametrize("images", [1, 10, 2000])
def test_images_that_all_agree_leave_a_width(images: int) -> None:
    found = intervals.of_paired_difference(0, 0, images, 0.95)
    assert found.high == -found.low == pytest.approx(Z95**2 / (images + Z95**2))


def test_a_paired_difference_covers_the_truth() -> None:
    n, shares = 25, []
    found = {
        (b, c): intervals.of_paired_difference(b, c, n, 0.95)
        for b, c in product(range(n + 1), repeat=2)
        if b + c <= n
    }
    for p, q in product((0.02, 0.1, 0.2, 0.35), repeat=2):
        covered = [own for own, interval in found.items() if interval.low <= p - q <= interval.high]
        shares.append(sum(trinomial(n, b, c, p, q) for b, c in covered))
    assert min(shares) > 0.92
    assert sum(shares) / len(shares) > 0.945


def test_wilson_covers_the_truth_and_is_the_score_test() -> None:
    n = 40
    found = [intervals.of_proportion(k, n, 0.95) for k in range(n + 1)]
    shares = [
        sum(binomial(n, k, p) for k in range(n + 1) if found[k].low <= p <= found[k].high)
        for p in np.linspace(0.05, 0.95, 91)
    ]
    assert min(shares) > 0.91
    assert sum(shares) / len(shares) == pytest.approx(0.95, abs=0.008)
    for k, interval in enumerate(found[1:-1], start=1):
        for end, sign in ((interval.low, 1), (interval.high, -1)):
            assert (k / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(sign * Z95)


def test_a_median_is_covered_exactly_as_often_as_ranks_say() -> None:
    for n in (6, 11, 40):
        interval = intervals.of_median(range(n), 0.95)
        assert interval is not None
        rank = round(interval.low) + 1
        assert interval.high == n - rank
        outside = 2 * sum(binomial(n, k, 0.5) for k in range(rank))
        assert outside <= 0.05 < outside + 2 * binomial(n, rank, 0.5)
    assert intervals.of_median(range(5), 0.95) is None  # all five are above it once in 32


def test_a_mean() -> None:
    found = intervals.of_mean(2.0, 3.0, 9, 0.95)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((2 - Z95, 2 + Z95))
    assert intervals.of_mean(2.0, 0.0, 1, 0.95) is None


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 10**6))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


@given(pairs(), st.floats(0.5, 0.999))
def test_intervals_hold_the_figure_stay_in_range_and_mirror(counts: tuple[int, int, int], level: float) -> None:
    b, c, n = counts
    own, other = (intervals.of_paired_difference(*pair, n, level) for pair in ((b, c), (c, b)))
    assert -1 <= own.low <= (b - c) / n <= own.high <= 1
    assert (own.low, own.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    single = intervals.of_proportion(b, n, level)
    assert 0 <= single.low <= b / n <= single.high <= 1


@given(pairs())
def test_more_confidence_is_wider(counts: tuple[int, int, int]) -> None:
    b, _, n = counts
    for kind in (
        lambda level: intervals.of_paired_difference(*counts, level),
        lambda level: intervals.of_proportion(b, n, level),
    ):
        widths = [(own := kind(level)).high - own.low for level in (0.5, 0.9, 0.99)]
        assert all(narrow <= wide + 1e-12 for narrow, wide in pairwise(widths))
