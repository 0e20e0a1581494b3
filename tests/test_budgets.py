"""Plans for a budget: blocks from anywhere, until little enough of the network is left.

What accuracy may be lost is in test_drops.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import refusal, run
from conftest import ARCHITECTURES, divergence, make_chain
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import resprune
from resprune import choosing, pipeline
from resprune.chain import ResidualChain
from resprune.errors import BudgetError, UsageError
from resprune.records import (
    Alternative,
    Budget,
    Latency,
    Method,
    PrunePlan,
    Recovery,
    Removal,
    Rival,
)
from resprune.report.results import prunings
from resprune.selection import surgical
from resprune.surgery import remove_blocks


@pytest.mark.parametrize("name", ["cifar option A", "cifar bottleneck", "preact standard"])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_target_is_met_and_not_by_more_than_one_block(
    name: str, share: float, image_folder: Callable[..., Path]
) -> None:
    chain = make_chain(ARCHITECTURES[name])
    images = image_folder(classes=chain.classes)
    for unit in ("macs", "parameters"):
        bare = pipeline.preview(chain, pipeline.select(remove=range(chain.depth), blocks=chain.depth))
        whole = getattr(chain.summary, unit)
        target = 1 - share * (1 - getattr(bare, unit) / whole)
        chosen = pipeline.choose_for(chain, images, Budget(**{unit: target}), batch_size=8)
        plan = chosen.plan
        left = getattr(pipeline.preview(chain, plan), unit)
        assert left <= target * whole
        assert chosen.data is not None
        assert chosen.data.samples == 2 * chain.classes
        last = next(k for k in plan.removed if f"number {len(plan.removed)}:" in plan.reasons[k])
        others = [k for k in plan.removed if k != last]
        if others:
            fewer = pipeline.preview(chain, pipeline.select(remove=others, blocks=chain.depth))
            assert getattr(fewer, unit) > target * whole


def test_a_smaller_budget_removes_the_same_blocks_and_more(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = image_folder(classes=chain.classes)
    removed = [
        set(pipeline.choose_for(chain, images, Budget(macs=macs)).plan.removed) for macs in (0.9, 0.7, 0.4)
    ]
    assert removed[0] < removed[1] < removed[2]
    again = pipeline.choose_for(chain, images, Budget(macs=0.4)).plan
    assert set(again.removed) == removed[2]
    both = pipeline.choose_for(chain, images, Budget(macs=0.7, parameters=0.4)).plan
    left = pipeline.preview(chain, both)
    assert left.macs <= 0.7 * chain.summary.macs
    assert left.parameters <= 0.4 * chain.summary.parameters


@pytest.mark.parametrize("method", ["tail", "stagewise"])
def test_methods_that_take_blocks_from_ends(method: Method, image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = image_folder(classes=chain.classes)
    plan = pipeline.choose_for(chain, images, Budget(macs=0.5), method=method).plan
    assert plan.rule == f"{method}, at most 0.5 of the MACs"
    stages = {block.stage for block in chain.blocks}
    for stage in stages if method == "stagewise" else {None}:
        own = [block.index for block in chain.blocks if stage in (None, block.stage)]
        kept = [k for k in own if k in plan.kept]
        assert kept == own[: len(kept)]
    assert [other.method for other in plan.beside] == ([] if plan.is_tail else ["tail"])


def test_the_tails_answer_stands_beside_a_surgical_plan(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = image_folder(classes=chain.classes)
    plan = pipeline.choose_for(chain, images, Budget(macs=0.6), recover=False).plan
    (tail,) = plan.beside
    assert tail.removed == tuple(range(tail.removed[0], chain.depth))
    assert tail.macs == pipeline.preview(chain, pipeline.select(depth=tail.removed[0], blocks=chain.depth)).macs
    assert tail.macs <= 0.6 * chain.summary.macs
    batches = pipeline.batches_for(chain, images, order=("train",))
    for blocks, found in ((plan.removed, plan.divergence), (tail.removed, tail.divergence)):
        kept = tuple(k for k in range(chain.depth) if k not in blocks)
        cut = remove_blocks(chain, PrunePlan("test", blocks, kept))
        assert divergence(chain, cut, batches) == pytest.approx(found, rel=1e-4)


def test_an_unknown_method_is_refused(image_folder: Callable[..., Path]) -> None:
    chain, images = make_chain(ARCHITECTURES["cifar option A"]), image_folder(each=4)
    for choose in (
        lambda: pipeline.choose_for(chain, images, Budget(macs=0.9), method="surgicall"),  # pyright: ignore[reportArgumentType]
        lambda: resprune.frontier(chain, images, method="Tail"),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(UsageError, match=r"no method '\w+'; choose from surgical, stagewise, tail"):
            choose()


def scripted_clock(monkeypatch: pytest.MonkeyPatch, head: float = 2.0) -> None:
    """Let every block take a millisecond and the rest ``head``; block 3 four of them."""

    def takes(chain: ResidualChain) -> float:
        whole = {block.path for block in chain.blocks}
        return head + len(whole) + (3.0 if chain.depth == 8 else 0.0)

    def measure(candidates: list[ResidualChain], images: Tensor, **how: object) -> tuple[Latency, ...]:
        return tuple(Latency((takes(own),) * 10, len(images), 1, "cpu") for own in candidates)

    monkeypatch.setattr(choosing, "measure", measure)
    monkeypatch.setattr(choosing, "block_prices", lambda chain, images: (1.0,) * 3 + (1e6,) + (1.0,) * 4)


def test_blocks_go_until_the_clock_says_enough(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_clock(monkeypatch)
    chain = make_chain(ARCHITECTURES["cifar option A"])
    assert chain.depth == 8
    chosen = pipeline.choose_for(chain, image_folder(), Budget(speedup=1.6), latency_batch=4)
    assert chosen.plan.speed is not None
    # 13 ms for the whole network, 9 for seven blocks, 8 for six.
    assert len(chosen.plan.removed) == 2
    assert chosen.plan.speed.factor == pytest.approx(13 / 8)
    assert (chosen.plan.speed.batch_size, chosen.plan.speed.threads) == (4, 1)
    assert 3 in chosen.plan.removed  # worth most
    with pytest.raises(BudgetError, match=r"a speedup of 7 cannot be reached: without any block it is 6\.50"):
        pipeline.choose_for(chain, image_folder("again"), Budget(speedup=7))


def test_a_speedup_is_told_with_how_it_was_measured(
    cifar_file: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_clock(monkeypatch)
    words = ("prune", cifar_file, "--data", image_folder(), "--speedup", 1.6, "--latency-batch", 8, "--dry-run")
    shown = " ".join(run(*words).stdout.split())
    assert "speed 1.62 times faster (1.62 to 1.62; batch of 8, 1 thread, cpu), eager mode" in shown
    found = json.loads(run(*words, "--json").stdout)["plan"]["speed"]
    assert found == {
        "factor": pytest.approx(13 / 8),
        "quartiles": [pytest.approx(13 / 8)] * 2,
        "batch_size": 8,
        "threads": 1,
        "device": "cpu",
    }


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ({}, UsageError, "no budget given"),
        ({"macs": 1.5}, UsageError, r"above 0 and below 1, got 1\.5"),
        ({"speedup": 1.0}, UsageError, "a factor above 1, got 1"),
        ({"max_drop": -1}, UsageError, "points of accuracy from 0 to 100, got -1"),
        ({"macs": 0.001}, BudgetError, r"0.001 of the MACs cannot be reached: .* are 0\.\d+ of them"),
    ],
)
def test_budgets_that_mean_nothing_or_cannot_be_reached(
    budget: dict[str, float], error: type[Exception], message: str, image_folder: Callable[..., Path]
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with pytest.raises(error, match=message):
        pipeline.choose_for(chain, image_folder(), Budget(**budget))


def test_the_command_prunes_to_a_budget(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    images = image_folder(each=4)
    out = tmp_path / "out"
    arguments = ("prune", cifar_file, "--data", images, "--out", out)
    result = run(*arguments, "--target-macs", 0.6, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert report["plan"]["rule"] == "surgical, at most 0.6 of the MACs"
    assert report["plan"]["divergence"] > 0
    assert report["plan"]["beside"][0]["method"] == "tail"
    assert report["verified"]["max_abs_difference"] <= report["verified"]["tolerance"]
    assert report["choice"]["samples"] == 40
    assert "cannot be reached" in refusal(1, *arguments, "--force", "--target-params", 0.0001)
    assert "no method 'best'; choose from surgical" in refusal(
        2, *arguments, "--force", "--target-macs", 0.6, "--method", "best"
    )


@pytest.mark.parametrize("wish", [{"depth": 5}, {"remove": ["2", "6"]}])
def test_a_budget_is_a_condition_on_blocks_that_are_named(wish: dict[str, Any]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    plan = pipeline.select(**wish, blocks=chain.depth)
    left = pipeline.preview(chain, plan).macs / chain.summary.macs
    chosen = pipeline.choose_for(chain, None, Budget(macs=left + 1e-9), plan=plan)
    assert chosen.plan == replace(plan, rule=f"{plan.rule}; at most {left:g} of the MACs")
    assert chosen.data is None
    with pytest.raises(BudgetError, match=re.escape(f"{left:.3g} of the MACs are left, and 0.5 may be")):
        pipeline.choose_for(chain, None, Budget(macs=0.5, parameters=0.99), plan=plan)


def test_the_command_takes_a_named_wish_and_a_budget_together(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    arguments = ("prune", cifar_file, "--depth", 5, "--out", tmp_path / "out")
    images = image_folder(each=4)
    said = refusal(1, *arguments, "--target-macs", 0.4)
    assert "the plan (tail, depth 5) and at most 0.4 of the MACs: not both; 0." in said
    assert not (tmp_path / "out").exists()
    judged = run(*arguments, "--target-macs", 0.9, "--max-drop", 100, "--data", images, "--json")
    assert judged.exit_code == 0, judged.output
    report = json.loads(judged.stdout)
    assert report["plan"]["removed"] == [5, 6, 7]
    assert report["plan"]["rule"].endswith("; at most 0.9 of the MACs, at most 100 points of accuracy lost")
    assert "Tried: without blocks 5 to 7" in judged.stderr


def test_outputs_that_are_not_finite_have_no_divergence_in_json() -> None:
    rivals = (Rival((1,), 50, math.inf), Rival((2,), 50, 0.25))
    beside = (Alternative("tail", (3,), math.inf, 9),)
    plan = replace(PrunePlan.without([1], 4, "any"), divergence=math.inf, rivals=rivals, beside=beside)
    told = prunings.plan(plan)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["divergence"] is None
    assert told["rivals"] == [
        {"removed": [1], "steps": 50, "divergence": None},
        {"removed": [2], "steps": 50, "divergence": 0.25},
    ]
    assert told["beside"] == [{"method": "tail", "removed": [3], "divergence": None, "macs": 9}]
    tried = Recovery("healing", "train", 9, 3, math.nan, 0.5, kept=True, removed=1)
    assert prunings.recovery(tried)["divergence"] == {"before": None, "after": 0.5}


@given(st.permutations(range(8)), st.integers(0, 8))
def test_a_surgical_plan_says_of_every_block_why(order: list[int], count: int) -> None:
    removals = [Removal(k, 0.1 * turn, 1.0) for turn, k in enumerate(order[:count])]
    plan = surgical(removals, 8, "test")
    assert sorted((*plan.removed, *plan.kept)) == list(range(8))
    assert set(plan.removed) == set(order[:count])
    assert [reason.split(":")[0].split()[0] for reason in plan.reasons] == [
        "removed" if k in plan.removed else "kept" for k in range(8)
    ]
