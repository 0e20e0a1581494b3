"""The tail rule and plans, by properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
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
        {"tol": 1e-3, "remove": [1]},
        {"depth": 1, "remove": [1]},
        {"remove": [3]},
        {"remove": [-1]},
        {"remove": ["-1"]},
        {"remove": ["b3"]},
        {"remove": ["\u00b2"]},
        {"remove": ["1" * 5000]},
        {"remove": [1, "b1"]},
        {"remove": [1, 1]},
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


PATHS = tuple(f"layer{stage}.{block}" for stage in range(1, 4) for block in range(9))


@given(st.sets(st.integers(0, 26), min_size=1), st.data())
def test_blocks_are_removed_by_index_or_name_in_any_order(indices: set[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(sorted(indices)))
    names = [data.draw(st.sampled_from([k, str(k), f" {k} ", PATHS[k]])) for k in order]
    plan = select(remove=names, paths=PATHS)
    assert plan.removed == tuple(sorted(indices))
    assert sorted(plan.removed + plan.kept) == list(range(27))
    assert plan == select(remove=sorted(indices), blocks=27)
    assert plan.rule == "remove " + ", ".join(map(str, sorted(indices)))


@given(st.integers(0, 26), st.data())
def test_a_block_named_twice_is_refused_however_it_is_named(block: int, data: st.DataObject) -> None:
    names = [data.draw(st.sampled_from([block, str(block), PATHS[block]])) for _ in range(2)]
    others = [k for k in data.draw(st.sets(st.integers(0, 26))) if k != block]
    with pytest.raises(UsageError, match=f"block {block} is named twice"):
        select(remove=data.draw(st.permutations([*others, *names])), paths=PATHS)


def test_a_path_that_is_the_index_of_another_block_is_refused() -> None:
    assert select(remove=["0", 1], paths=["0", "1", "2"]).removed == (0, 1)
    with pytest.raises(UsageError, match="2 is the path of block 1 and the index of another; use indices"):
        select(remove=["2"], paths=["1", "2", "3"])
    assert select(remove=[2], paths=["1", "2", "3"]).removed == (2,)


def test_an_error_names_what_there_is_but_not_a_thousand_blocks() -> None:
    with pytest.raises(
        UsageError, match=r"no block 'x', the network has the blocks 0..26: layer1.0, .*layer3.8"
    ):
        select(remove=["x"], paths=PATHS)
    with pytest.raises(UsageError, match=r"the blocks 0..999: .*, b38, \.\.\., b999$"):
        select(remove=[1000], paths=[f"b{k}" for k in range(1000)])


@given(NORMS, TOLERANCE, st.data())
def test_the_order_of_the_rows_does_not_matter(norms: list[float], tol: float, data: st.DataObject) -> None:
    rows = trajectory(norms).rows
    shuffled = replace(trajectory(norms), rows=tuple(data.draw(st.permutations(rows))))
    assert select(shuffled, tol=tol) == select(trajectory(norms), tol=tol)
    names = [row.path for row in rows[::2]]
    assert select(shuffled, remove=names) == select(trajectory(norms), remove=names)


@given(NORMS, TOLERANCE)
def test_every_block_of_a_tail_has_its_reason(norms: list[float], tol: float) -> None:
    plan = select(trajectory(norms), tol=tol)
    assert len(plan.reasons) == len(norms)
    assert all(reason.startswith("removed: ") == (k in plan.removed) for k, reason in enumerate(plan.reasons))
    assert len({*plan.reasons}) <= 3


def test_reasons_give_the_figures_of_the_rule() -> None:
    assert select(trajectory([0.5, 0.0, 0.04123, 0.0003, 0.00029]), tol=1e-3).reasons == (
        "kept: before block 2, whose residual is 0.0412 of the output, above 0.001",
        "kept: before block 2, whose residual is 0.0412 of the output, above 0.001",
        "kept: its residual is 0.0412 of the output, above 0.001",
        "removed: every residual from block 3 on is at most 0.001 of the output (largest 0.0003)",
        "removed: every residual from block 3 on is at most 0.001 of the output (largest 0.0003)",
    )
    assert select(depth=1, blocks=2).reasons == ("kept: among the first 1", "removed: not among the first 1")
    named = ("kept: not named by --remove", "removed: named by --remove")
    assert select(remove=[1], blocks=2).reasons == named


@pytest.mark.parametrize("named", [np.array([3, 1]), [np.int64(3), 1], torch.tensor([1, 3])])
def test_blocks_are_named_by_integers_of_any_kind(named: Sequence[int]) -> None:
    assert select(remove=named, blocks=5).removed == (1, 3)
