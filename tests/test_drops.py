"""Plans that may cost so many points of accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run
from conftest import ARCHITECTURES, make_chain

from resprune import pipeline
from resprune.chain import ResidualChain
from resprune.errors import DataError, UsageError
from resprune.judging import Judge
from resprune.records import RECIPES, Budget, DataSummary, Drop, Interval, Outcomes, PrunePlan
from resprune.report import pruning as report

IMAGES = 2000


def costing(monkeypatch: pytest.MonkeyPatch, points: float) -> list[int]:
    """Let every removed block cost points of accuracy; returns the numbers of blocks that were asked about."""
    asked = list[int]()

    def outcomes(judge: Judge, network: ResidualChain) -> Outcomes:
        gone = judge.chain.depth - network.depth
        asked.append(gone)
        lost = round(points * gone / 100 * IMAGES)
        return Outcomes(both=1800 - lost, only_first=lost + 5, only_second=5, neither=190)

    monkeypatch.setattr(Judge, "outcomes", outcomes)
    return asked


@pytest.mark.parametrize("limit", [0.5, 1.0, 3.2, 4.9, 40.0])
def test_as_many_blocks_go_as_the_accuracy_allows(
    limit: float, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = image_folder(classes=chain.classes, each=4)
    asked = costing(monkeypatch, 0.5)
    told: list[Drop | None] = []
    chosen = pipeline.choose_for(
        chain, images, Budget(max_drop=limit), tell=lambda candidate: told.append(candidate.plan.drop)
    )
    assert len(chosen.plan.removed) == min(chain.depth, int(limit / 0.5 + 1e-9))
    assert chosen.plan.drop is not None
    assert chosen.plan.drop.points == pytest.approx(0.5 * len(chosen.plan.removed))
    assert chosen.plan.drop.samples == IMAGES
    assert len(told) == len(set(asked)) == len(asked)  # every number is tried once
    assert chosen.restored is not None
    kept = {chosen.plan.reasons[index] for index in chosen.plan.kept}
    assert kept <= {"kept: one block more, in the order of trials, costs too much"}


def refused(*words: object) -> str:
    """Return the last line of a command that tried something and then said no."""
    result = run(*words)
    assert result.exit_code == 1
    return result.stderr.splitlines()[-1]


def test_an_accuracy_that_cannot_be_kept_says_how_close_one_gets(
    cifar_file: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    costing(monkeypatch, 2.0)
    words = ("prune", cifar_file, "--data", image_folder(each=4), "--out", tmp_path / "out", "--no-recover")
    said = refused(*words, "--max-drop", 1.5)
    assert re.search(
        r"at most 1\.5 points of accuracy lost: block \d, the first that would go, costs 2\.00 points;", said
    )
    said = refused(*words, "--max-drop", 3, "--target-macs", 0.5)
    assert re.search(r"not both; \d blocks must go for the first, and cost \d+\.00 points", said)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_as_many_as_a_drop_allows(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("prune", cifar_file, "--data", image_folder(each=4))
    labelled = run(*words, "--max-drop", 90, "--dry-run", "--json")
    assert labelled.exit_code == 0, labelled.output
    assert json.loads(labelled.stdout)["plan"]["rule"] == "surgical, at most 90 points of accuracy lost"
    assert "Tried: without block" in labelled.stderr
    costing(monkeypatch, 2.0)
    named = ("--depth", 5, "--target-macs", 0.9, "--max-drop", 3, "--no-recover", "--out", tmp_path / "out")
    assert "not both; 3 blocks must go for the first, and cost 6.00 points" in refused(*words, *named)


def test_an_interval_of_paired_outcomes_is_told(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = image_folder(classes=chain.classes, each=4)
    costing(monkeypatch, 0.5)
    drop = pipeline.choose_for(chain, images, Budget(max_drop=0.5)).plan.drop
    assert drop is not None
    assert drop.points == 0.5
    # Ten images lost and none won but for five each way: by the normal approximation 0.5 +- 0.44 points.
    assert drop.interval.low == pytest.approx(0.06, abs=0.05)
    assert drop.interval.high == pytest.approx(0.94, abs=0.1)


def test_what_judges_a_drop_counts_images(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    batches = pipeline.batches_for(chain, image_folder(classes=chain.classes, each=4), order=("train",))
    other = make_chain(ARCHITECTURES["cifar option A"], seed=1)
    found = Judge(chain, batches).outcomes(other)
    first, second = (pipeline.evaluate(own, batches)[0].accuracy for own in (chain, other))
    assert (first, second) == (
        (found.both + found.only_first) / found.images,
        (found.both + found.only_second) / found.images,
    )
    assert found.images == len(batches.source)


@pytest.mark.parametrize("validation", [True, False])
def test_a_drop_is_judged_on_images_that_nothing_is_trained_on(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, validation: bool
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    root = image_folder("data/train", each=10).parent
    if validation:
        image_folder("data/val", each=3)
    judged = list[DataSummary]()
    measured = Judge.outcomes

    def spied(self: Judge, network: ResidualChain) -> Outcomes:
        judged.append(self.batches.summary)
        return measured(self, network)

    monkeypatch.setattr(Judge, "outcomes", spied)
    recipe = replace(RECIPES["heal"], batch_size=16, steps=1, hold_out=0.2, rate=1e-9)
    choice = pipeline.choose_for(chain, root, Budget(max_drop=100), heal=recipe, device="cpu")
    assert choice.data is not None
    assert (choice.data.split, choice.data.samples) == (("validation", 30) if validation else ("train", 20))
    assert {(own.split, own.samples) for own in judged} == {(choice.data.split, choice.data.samples // 2)}


def test_a_drop_is_not_judged_on_images_that_the_healing_trains_on(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    recipe = replace(RECIPES["heal"], batch_size=16, steps=1, hold_out=0.0)
    with pytest.raises(UsageError, match="none are left to judge it on; hold some out"):
        pipeline.choose_for(chain, image_folder(each=10), Budget(max_drop=1), heal=recipe, device="cpu")


def test_accuracy_needs_labels(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with pytest.raises(DataError, match="no labels to measure a drop of accuracy with"):
        pipeline.choose_for(chain, image_folder() / "class0", Budget(max_drop=1))


@pytest.mark.parametrize(
    ("removed", "drop", "told"),
    [
        ((2,), (1.5, -0.25, 3.0), "without block 2: 1.50 points of accuracy lost on {} (95 %: -0.25 to 3.00)"),
        ((), (-0.5, -2.0, 1.25), "with all blocks: 0.50 points of accuracy gained on {} (95 %: -1.25 to 2.00)"),
    ],
)
def test_what_a_plan_costs_is_said_in_words(
    removed: tuple[int, ...], drop: tuple[float, float, float], told: str
) -> None:
    points, *ends = drop
    plan = replace(PrunePlan.without(removed, 4, "any"), drop=Drop(points, 200, Interval(*ends)))
    assert report.candidate(plan) == f"Tried: {told.format('200 held-out images')}"
