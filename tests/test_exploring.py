"""The frontier: every depth measured as pruning to it would give, on images that nothing else has seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pandas
import pytest
from commands import refusal, run
from conftest import ARCHITECTURES, divergence, make_chain
from schemas import assert_valid
from torch import Tensor

import resprune
from resprune import pipeline, trajectory
from resprune.chain import ResidualChain
from resprune.data import Batches
from resprune.errors import DataError
from resprune.judging import Judge
from resprune.reading import silent
from resprune.records import Budget, PrunePlan
from resprune.restoration import Restoration
from resprune.surgery import remove_blocks


def plan_for(chain: ResidualChain, removed: tuple[int, ...]) -> PrunePlan:
    return PrunePlan("test", removed, tuple(k for k in range(chain.depth) if k not in removed))


def judging_images(chain: ResidualChain, folder: Path) -> Batches:
    """The half of the images that a frontier judges on."""
    images = pipeline.batches_for(chain, folder, order=("train",))
    return Restoration(chain, images, None, 0, silent).divided(images)[0]


@pytest.mark.parametrize("name", ["cifar option A", "preact standard"])
def test_the_tails_frontier_is_the_exits_of_one_pass(name: str, image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES[name])
    folder = image_folder(classes=chain.classes, each=4)
    found = resprune.frontier(chain, folder, method="tail", recover=False)
    exits = trajectory.measure(chain, judging_images(chain, folder), drops=False)
    assert found.order == tuple(reversed(range(chain.depth)))
    assert [point.blocks for point in found.points] == list(reversed(range(chain.depth + 1)))
    accuracies = [*(row.exit_accuracy for row in exits.rows), exits.final.accuracy]
    losses = [*(row.exit_loss for row in exits.rows), exits.final.loss]
    raw = [point.raw.evaluation for point in reversed(found.points)]
    assert [own.accuracy for own in raw] == accuracies
    assert [own.loss for own in raw] == pytest.approx(losses, rel=1e-4)
    assert all(point.recovered == point.raw and point.statistics is None for point in found.points)


def test_every_point_is_what_pruning_to_it_gives(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    folder = image_folder(classes=chain.classes, each=6)
    found = resprune.frontier(chain, folder)
    assert sorted(found.order) == list(range(chain.depth))
    judge = judging_images(chain, folder)
    assert found.data.samples == len(judge.source) == found.choice.samples // 2
    assert found.points[0].raw.divergence == 0
    for turn, point in enumerate(found.points):
        assert point.removed == tuple(sorted(found.order[:turn]))
        cut = remove_blocks(chain, plan_for(chain, point.removed))
        assert (point.macs, point.parameters) == (cut.summary.macs, cut.summary.parameters)
        assert point.raw.evaluation == trajectory.evaluate(cut, judge)
        assert point.raw.divergence == pytest.approx(divergence(chain, cut, judge), abs=1e-9)
        assert point.latency.rounds == found.points[0].latency.rounds >= 10
    images = pipeline.batches_for(chain, folder, order=("train",))
    _, _, restoration = Restoration(chain, images, None, 0, silent).divided(images)
    third = found.points[3]
    plan = plan_for(chain, third.removed)
    restored = restoration.restore(remove_blocks(chain, plan), plan)
    assert any(tried.kept for _, tried in restored.steps)
    assert third.recovered.evaluation == trajectory.evaluate(restored.network, judge)
    assert third.statistics is not None


def test_a_budgets_plan_lies_on_the_frontier(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    folder = image_folder(classes=chain.classes, each=4)
    found = resprune.frontier(chain, folder, recover=False)
    judge, others, _ = Restoration(chain, None, None, 0, silent).divided(
        pipeline.batches_for(chain, folder, order=("train",))
    )
    chosen = resprune.choose_for(chain, others, Budget(macs=0.6), recover=False)
    assert chosen.plan.order == found.order[: len(chosen.plan.removed)]
    assert chosen.plan.removed in [point.removed for point in found.points]
    assert not set(judge.source) & set(others.source)


def test_without_labels_divergences_are_left(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    folder = image_folder(each=8) / "class0"
    found = resprune.frontier(chain, folder)
    assert all(point.raw.evaluation.accuracy is None for point in found.points)
    assert all(point.recovered.divergence >= 0 for point in found.points)
    assert found.points[-1].raw.divergence > 0
    with pytest.raises(DataError, match="one image is too few"):
        resprune.frontier(chain, folder, samples=1)


def test_the_judge_asks_the_original_once(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    batches = judging_images(chain, image_folder(each=4))
    asked: list[ResidualChain] = []
    call = ResidualChain.__call__

    def counted(own: ResidualChain, images: Tensor) -> Tensor:
        asked.append(own)
        return call(own, images)

    monkeypatch.setattr(ResidualChain, "__call__", counted)
    judge, cut = Judge(chain, batches, silent), remove_blocks(chain, plan_for(chain, (1,)))
    assert judge(cut) == judge(cut)
    rounds = len(list(batches))
    assert [own is chain for own in asked].count(True) == rounds
    assert [own is cut for own in asked].count(True) == 2 * rounds


def test_the_command(cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path) -> None:
    words = ("prune", cifar_file, "--data", image_folder(each=4), "--frontier")
    table = tmp_path / "frontier.csv"
    result = run(*words, "--json", "--csv", table, "--latency-batch", 2)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert_valid(report)
    assert (report["method"], report["batch_size"], report["device"]) == ("surgical", 2, "cpu")
    entries = report["frontier"]
    assert [entry["blocks"] for entry in entries] == list(range(8, -1, -1))
    assert entries[0]["removed"] == []
    assert entries[0]["ratio"] == 1.0
    assert entries[-1]["macs"] < entries[0]["macs"]
    frame = pandas.read_csv(StringIO(table.read_text()))
    assert frame["macs"].tolist() == [entry["macs"] for entry in entries]
    assert frame["recovered_accuracy"].tolist() == [entry["recovered"]["accuracy"] for entry in entries]
    page, plots = tmp_path / "page.html", tmp_path / "plots"
    shown = run(*words, "--no-recover", "--method", "tail", "--report", page, "--plots", plots)
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "+ 6" in shown.stdout
    assert "frontier-macs-0-points" in page.read_text(encoding="utf-8")
    names = ("frontier-macs", "frontier-latency")
    assert sorted(file.name for file in plots.iterdir()) == sorted(
        f"{name}.{kind}" for name in names for kind in ("svg", "png")
    )
    assert "8 blocks: " in shown.stderr
    assert "% recovered" in result.stderr
    assert "recovered" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frontier", "--depth", 2], "writes no network, so --depth has nothing to say"),
        (["--frontier", "--target-macs", 0.5], "so a budget has nothing to say"),
        (["--frontier", "--out", "there"], "so --out has nothing to say"),
        (["--depth", 2, "--dry-run", "--csv", "file.csv"], "--csv is of a frontier"),
        (["--depth", 2, "--dry-run", "--plots", "folder"], "--plots is of a frontier"),
        (["--frontier"], "no data given"),
        (["--frontier", "--method", "best"], "no method 'best'"),
    ],
)
def test_what_does_not_go_with_a_frontier(cifar_file: Path, words: list[object], message: str) -> None:
    assert message in refusal(2, "prune", cifar_file, *words)
