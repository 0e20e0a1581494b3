"""`--remove` and the recovery of batch-norm statistics, from the pipeline to the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import refusal, run
from rich.console import Console

from resprune import healing, pipeline
from resprune.report import card, pruning


def test_any_blocks_go_by_index_or_name_without_data(cifar_file: Path, tmp_path: Path) -> None:
    words = ("prune", cifar_file, "--remove", "layer2.1,layer1.0, 3", "--out", tmp_path / "out")
    shown = [line.rstrip() for line in run(*words, "--dry-run").stdout.splitlines()]
    assert "why         0, 3, 4 removed: named by --remove" in shown
    assert "            1, 2, 5-7 kept: not named by --remove" in shown
    assert max(map(len, shown)) <= 80
    report = json.loads(run(*words, "--json").stdout)
    assert report["plan"]["removed"] == [0, 3, 4]  # all of the second stage among them
    assert len(report["plan"]["reasons"]) == 8
    assert report["data"] is None
    assert report["verified"]["against"] == "the origin, removed branches left out"
    found = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    assert found["stages"] == [2, 0, 3]


KEYS_RECOVERY = {"kind", "split", "images", "held_out", "divergence", "kept"}


def pruned_json(*words: object) -> dict[str, Any]:
    result = run("prune", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_statistics_are_re_estimated_by_default(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = image_folder()
    words = (cifar_file, "--remove", "1,4", "--data", data, "--batch-size", 4)
    found = pruned_json(*words, "--out", tmp_path / "out")
    tried = found["recovery"]
    assert tried.keys() == KEYS_RECOVERY
    assert (tried["kind"], tried["split"], tried["images"], tried["held_out"]) == (
        "batch-norm statistics",
        None,
        16,
        4,
    )
    assert tried["kept"] == (tried["divergence"]["after"] < tried["divergence"]["before"])
    assert found["raw"].keys() == {"accuracy", "loss"}
    assert (found["raw"]["loss"] != found["after"]["loss"]) == tried["kept"]
    # What is written is what the figures are of.
    evaluated = json.loads(run("evaluate", tmp_path / "out", "--data", data, "--json").stdout)
    assert evaluated["loss"] == pytest.approx(found["after"]["loss"], rel=1e-5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["raw"], report["recovery"]) == (found["raw"], tried)
    section = json.loads((tmp_path / "out" / "config.json").read_text())["resprune"]
    assert section["recovery"] == tried
    # Without it the same network is written raw.
    raw = pruned_json(*words, "--out", tmp_path / "raw", "--no-recover")
    assert raw["recovery"] is None
    assert raw["after"]["loss"] == raw["raw"]["loss"] == found["raw"]["loss"]


def outcome(cifar_file: Path, data: Path, monkeypatch: pytest.MonkeyPatch, better: bool) -> pipeline.Pruned:
    """Prune with a recovery that helps, or does not, whatever the images are."""
    divergences = iter([0.5, 0.25 if better else 0.75])
    monkeypatch.setattr(healing, "divergence", lambda *given, **how: next(divergences))
    chain = pipeline.load(cifar_file, device="cpu")
    return pipeline.prune(chain, pipeline.select(remove=[1, 4], blocks=8), data)


@pytest.mark.parametrize("better", [True, False])
def test_tables_and_card_tell_what_was_recovered(
    cifar_file: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    pruned = outcome(cifar_file, image_folder(), monkeypatch, better)
    console = Console(width=80, record=True)
    with console.capture() as shown:
        console.print(pruning.prune(pruned.outcome))
    text = " ".join(shown.get().split())
    page = card.model_card(pruned.outcome, "out")
    figures = "batch-norm statistics of 10 images, divergence from the original 0.5 -> "
    if better:
        assert "before raw after blocks 8 6 6" in text
        assert f"Recovered: {figures}0.25 nats on 10 others." in text
        assert "logits equal the origin, removed branches left out before recovery" in text
        assert "The batch-norm statistics are those of 10 images without their labels: before that," in page
        assert pruned.outcome.after != pruned.outcome.raw
        assert pruned.outcome.seen
    else:
        assert "before after blocks 8 6 accuracy" in text
        assert f"Left as they were, since new ones do not help: {figures}0.75 nats on 10 others." in text
        assert "before recovery" not in text + page
        assert pruned.outcome.after == pruned.outcome.raw
        assert not pruned.outcome.seen


def test_unlabelled_images_recover_too(
    cifar_file: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcome(cifar_file, image_folder(each=20) / "class0", monkeypatch, better=True).outcome
    assert found.recovered is not None
    assert found.recovered.kept
    assert found.after.accuracy is None


def test_training_images_recover_and_test_images_do_not(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    image_folder("data/train")
    image_folder("data/test", each=1)
    found = pruned_json(cifar_file, "--remove", "1,4", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert (found["recovery"]["split"], found["data"]["split"]) == ("train", "test")
    words = ("--split", "test", "--samples", 6, "--data", tmp_path / "data", "--out", tmp_path / "second")
    found = pruned_json(cifar_file, "--remove", "1,4", *words)
    assert found["recovery"]["split"] == "test"
    assert found["recovery"]["images"] + found["recovery"]["held_out"] == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recover"], "--recover needs images; name some with --data"),
        (
            ["--split", "train"],
            "--split names images to choose a plan or to recover on, and nothing",
        ),
        (
            ["--split", "train", "--no-recover", "--data", "images"],
            "--split names images to choose a plan or to",
        ),
    ],
)
def test_wishes_that_nothing_answers_are_refused(
    cifar_file: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in refusal(2, "prune", cifar_file, "--depth", 5, "--out", tmp_path / "out", *words)


def test_where_no_norm_is_behind_the_cut_nothing_is_tried(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("--depth", 5, "--data", image_folder(), "--out", tmp_path / "out")
    assert pruned_json(cifar_file, *words)["recovery"] is None


def test_seeded_inputs_recover_nothing(cifar_file: Path, tmp_path: Path) -> None:
    found = pruned_json(cifar_file, "--depth", 5, "--out", tmp_path / "out")
    assert (found["recovery"], found["raw"]) == (None, {"accuracy": None, "loss": None})
