"""Verdicts: properties of the rule, and every condition of figures given by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resprune import gate
from resprune.errors import UsageError
from resprune.gate import Rule
from resprune.records import (
    BenchOutcome,
    CheckOutcome,
    Evaluation,
    Interval,
    Latency,
    Likeness,
    Limits,
    Origin,
    Outcomes,
    Timing,
)

ORIGIN = Origin("net.onnx", "0" * 64, "ONNX")
FIGURE = st.floats(-100, 100)
LENIENT, STRICT = Rule(), Rule(strict=True)


def like(lost: int, won: int, images: int = 2000, deviation: float | None = 1.0) -> Likeness:
    both = images - lost - won
    first = Evaluation((both + lost) / images, None, 0.5, images)
    second = Evaluation((both + won) / images, None, 0.6, images)
    agreement = both / images
    outcomes = Outcomes(both, lost, won, 0)
    return Likeness(images, agreement, 0, 0, 0, deviation, first, second, outcomes, lost + won, ())


UNLABELLED = replace(
    like(0, 0), outcomes=None, first=Evaluation(None, None, None, 9), second=Evaluation(None, None, None, 9)
)


@st.composite
def measured(draw: st.DrawFn) -> tuple[float, Interval | None]:
    own = draw(FIGURE)
    if draw(st.booleans()):
        return own, None
    return own, Interval(own - draw(st.floats(0, 50)), own + draw(st.floats(0, 50)))


@given(measured(), FIGURE, st.booleans())
def test_the_rule(found: tuple[float, Interval | None], limit: float, upper: bool) -> None:
    value, interval = found
    lenient, strict = (
        rule.judge("x", "nats", value, limit, upper=upper, interval=interval) for rule in (LENIENT, STRICT)
    )
    beyond = value > limit if upper else value < limit
    assert strict.verdict == ("failed" if beyond else "passed")
    assert not strict.within_noise
    # Who fails leniently fails strictly too, and the difference between the two is always told.
    assert lenient.verdict == "passed" or strict.verdict == "failed"
    assert lenient.within_noise == (lenient.verdict != strict.verdict)
    if interval is None:
        assert lenient.verdict == strict.verdict
    else:
        outside = interval.low > limit if upper else interval.high < limit
        assert (lenient.verdict == "failed") == outside


@given(measured(), FIGURE, FIGURE, st.booleans())
def test_a_wider_limit_never_turns_a_pass_into_a_failure(
    found: tuple[float, Interval | None], one: float, other: float, strict: bool
) -> None:
    value, interval = found
    tight, wide = min(one, other), max(one, other)
    rule = Rule(strict=strict)
    if rule.judge("x", "nats", value, tight, interval=interval).verdict == "passed":
        assert rule.judge("x", "nats", value, wide, interval=interval).verdict == "passed"


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_drop_fails_by_discordant_images_only(lost: int, won: int) -> None:
    few = gate.max_drop(0.5, like(lost, won), LENIENT)
    assert few.measured == 100 * (lost - won) / 2000
    assert few.interval is not None
    assert few.measured is not None
    assert few.interval.low <= few.measured <= few.interval.high
    if lost - won <= 10:
        assert few.verdict == "passed"


def test_a_drop_within_noise_and_beyond_it() -> None:
    near, far = gate.max_drop(0.5, like(20, 4), LENIENT), gate.max_drop(0.5, like(60, 4), LENIENT)
    assert (near.verdict, near.within_noise, near.measured) == ("passed", True, 0.8)
    assert (far.verdict, far.within_noise) == ("failed", False)
    assert gate.max_drop(0.5, like(20, 4), STRICT).verdict == "failed"
    assert gate.max_drop(0.35, like(7, 0), STRICT).verdict == "passed"  # no rounding error decides
    # The same drop, of more images that changed: less is known.
    assert gate.max_drop(0.5, like(356, 300), LENIENT).within_noise


def test_accuracy_agreement_and_loss() -> None:
    figures = Evaluation(0.9, None, 0.6, 1000)
    assert [gate.min_accuracy(x, figures, LENIENT).verdict for x in (0.9, 0.915, 0.95)] == [
        "passed",
        "passed",
        "failed",
    ]
    assert gate.min_accuracy(0.915, figures, LENIENT).within_noise
    assert gate.min_agreement(0.97, like(20, 20), LENIENT).verdict == "passed"
    assert gate.min_agreement(0.999, like(20, 20), LENIENT).verdict == "failed"
    found = gate.max_loss_increase(0.08, like(0, 0), LENIENT)  # 0.1 more, give or take 0.044
    assert (found.verdict, found.within_noise) == ("passed", True)
    assert gate.max_loss_increase(0.05, like(0, 0), LENIENT).verdict == "failed"
    assert gate.max_loss_increase(0.08, like(0, 0, deviation=None), LENIENT).verdict == "failed"


def test_without_labels_nothing_is_measured() -> None:
    found = [
        gate.max_drop(1, UNLABELLED, LENIENT),
        gate.min_accuracy(0.5, UNLABELLED.second, LENIENT),
        gate.max_loss_increase(1, UNLABELLED, LENIENT),
    ]
    assert {(own.verdict, own.measured, own.detail) for own in found} == {
        ("not measured", None, gate.NO_LABELS)
    }
    assert gate.min_agreement(0.5, UNLABELLED, LENIENT).verdict == "passed"


@pytest.mark.parametrize(
    ("limit", "own", "its", "verdict", "figure"),
    [
        (1000, 1000, None, "passed", 1000),
        (999, 1000, None, "failed", 1000),
        (0.5, 500, 1000, "passed", 0.5),
        (0.49, 500, 1000, "failed", 0.5),
        (1, 1001, 1000, "failed", 1.001),
        (0.5, 500, None, "not measured", None),
        (1000, None, 5, "not measured", None),
    ],
)
def test_sizes(limit: float, own: int | None, its: int | None, verdict: str, figure: float | None) -> None:
    found = gate.max_size("max-macs", "MACs", limit, own, its, LENIENT)
    assert (found.verdict, found.measured) == (verdict, figure)


def timed(own: list[float], its: list[float]) -> BenchOutcome:
    timings = [Timing(ORIGIN, "eager", Latency(tuple(ms), 1, 1, "cpu"), None) for ms in (own, its)]
    first, other = timings
    return BenchOutcome(first, other, first.latency.ratio_to(other.latency), (3, 8, 8), False)


def test_a_speedup_is_of_the_rounds_and_wants_enough_of_them() -> None:
    steady = timed([1.0] * 20, [2.0] * 20)
    assert gate.min_speedup(1.9, steady, LENIENT).verdict == "passed"
    assert gate.min_speedup(2.1, steady, LENIENT).verdict == "failed"
    noisy = timed([1.0] * 20, [1.0, 3.0] * 10)
    assert gate.min_speedup(2.5, noisy, LENIENT).within_noise
    assert gate.min_speedup(2.5, timed([1.0] * 3, [2.0] * 3), LENIENT).interval is None


def test_a_tail() -> None:
    norms = (0.5, 0.2, 0.01, 0.03)
    found = gate.max_residual_tail(0.02, 2, norms, LENIENT)
    assert (found.verdict, found.measured) == ("failed", 0.03)
    assert found.detail == "block 3, the largest of blocks 2 to 3"
    assert gate.max_residual_tail(0.2, 1, norms, LENIENT).verdict == "passed"
    assert "no block 4 or later" in gate.max_residual_tail(0, 4, norms, LENIENT).detail


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [("p", 0), ("pp", 0), ("pf", 1), ("pn", 3), ("nf", 1)],
)
def test_one_failure_decides_then_what_was_not_measured(verdicts: str, status: int) -> None:
    made = {
        "p": LENIENT.judge("x", "nats", 0, 1),
        "f": LENIENT.judge("x", "nats", 2, 1),
        "n": gate.unmeasured("x", "nats", 1, "why"),
    }
    outcome = CheckOutcome(ORIGIN, None, None, 0.95, False, tuple(made[letter] for letter in verdicts))
    assert outcome.exit_status == status


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_drop": -1}, "--max-drop must be points"),
        ({"max_drop": float("nan")}, "--max-drop must be points"),
        ({"min_accuracy": 90}, "0.9 asks for 90 %"),
        ({"min_speedup": 0}, "--min-speedup must be above 0"),
        ({"max_loss_increase": float("inf")}, "--max-loss-increase"),
        ({"max_residual_tail": 1e-3}, "a first block"),
        ({"tail_from": 3}, "a tolerance"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Limits(**limits)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="fraction from"):
        Rule(confidence=95)
