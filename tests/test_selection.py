"""The tail rule and plans, by properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resprune.errors import UsageError
from resprune.records import BlockRow, Evaluation, Trajectory
from resprune.selection import select, tail_rule

NORMS = st.lists(st.floats(0, 10, allow_nan=False), max_size=60)
TOLERANCE = st.floats(0, 10, allow_nan=False)


def trajectory(norms: list[float]) -> Trajectory:
    rows = [BlockRow(k, f"b{k}", 0, None, None, r, r, 1.0, None, None, 1, 1) for k, r in enumerate(norms)]
    return Trajectory(Evaluation(None, None, None, 1), tuple(rows), 1.0)


@given(NORMS, TOLERANCE)
def test_tail_rule_is_the_minimum_of_its_definition(norms: list[float], tol: float) -> None:
    candidates = [m for m in range(len(norms) + 1) if all(norm <= tol for norm in norms[m:])]
    assert tail_rule(norms, tol) == min(candidates)


@given(NORMS, TOLERANCE, TOLERANCE)
def test_a_larger_tolerance_never_keeps_more(norms: list[float], one: float, other: float) -> None:
    assert tail_rule(norms, max(one, other)) <= tail_rule(norms, min(one, other))


@given(NORMS, TOLERANCE)
def test_plans_part_the_blocks(norms: list[float], tol: float) -> None:
    plan = select(trajectory(norms), tol=tol)
    assert plan.kept + plan.removed == tuple(range(len(norms)))
    assert plan.is_tail
    assert plan.depth == tail_rule(norms, tol)


@given(st.integers(0, 60), st.data())
def test_depth_keeps_the_first_blocks(blocks: int, data: st.DataObject) -> None:
    depth = data.draw(st.integers(0, blocks))
    assert select(depth=depth, blocks=blocks).kept == tuple(range(depth))


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"tol": 1e-3, "depth": 1},
        {"tol": -1.0},
        {"tol": float("nan")},
        {"tol": float("inf")},
        {"depth": -1},
        {"depth": 4},
    ],
)
def test_impossible_wishes_are_refused(wish: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        select(trajectory([0.1, 0.2, 0.3]), **wish)  # pyright: ignore[reportArgumentType]


def test_a_tolerance_without_a_trajectory_is_refused() -> None:
    with pytest.raises(UsageError, match="residual norms"):
        select(tol=0.1, blocks=3)
