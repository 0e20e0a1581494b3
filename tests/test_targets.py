"""Plans for a budget: blocks from anywhere, until little enough of the network is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain
from hypothesis import given
from hypothesis import strategies as st

from resprune import pipeline
from resprune.errors import UsageError
from resprune.records import Removal
from resprune.selection import surgical


@pytest.mark.parametrize("name", ["cifar option A", "torchvision bottleneck", "preact standard"])
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
        plan, choice = pipeline.choose_for(chain, images, **{unit: target}, batch_size=8)
        left = getattr(pipeline.preview(chain, plan), unit)
        assert left <= target * whole
        assert choice.samples == 2 * chain.classes
        last = next(k for k in plan.removed if f"number {len(plan.removed)}:" in plan.reasons[k])
        others = [k for k in plan.removed if k != last]
        if others:
            fewer = pipeline.preview(chain, pipeline.select(remove=others, blocks=chain.depth))
            assert getattr(fewer, unit) > target * whole


def test_targets_that_mean_nothing_or_cannot_be_reached(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = image_folder()
    with pytest.raises(UsageError, match="one of the two"):
        pipeline.choose_for(chain, images)
    with pytest.raises(UsageError, match=r"above 0 and below 1, got 1\.5"):
        pipeline.choose_for(chain, images, macs=1.5)
    with pytest.raises(UsageError, match=r"0.001 of the MACs cannot be reached: .* are 0\.\d+ of them"):
        pipeline.choose_for(chain, images, macs=0.001)


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
    assert report["verified"]["max_abs_difference"] <= report["verified"]["tolerance"]
    assert report["choice"]["samples"] == 40
    assert "one of them" in refusal(2, *arguments, "--target-macs", 0.6, "--depth", 3)
    assert "cannot be reached" in refusal(2, *arguments, "--force", "--target-params", 0.0001)


@given(st.permutations(range(8)), st.integers(0, 8))
def test_a_surgical_plan_says_of_every_block_why(order: list[int], count: int) -> None:
    removals = [Removal(k, 0.1 * turn, 1.0) for turn, k in enumerate(order[:count])]
    plan = surgical(removals, 8, "test")
    assert sorted((*plan.removed, *plan.kept)) == list(range(8))
    assert set(plan.removed) == set(order[:count])
    assert [reason.split(":")[0].split()[0] for reason in plan.reasons] == [
        "removed" if k in plan.removed else "kept" for k in range(8)
    ]
