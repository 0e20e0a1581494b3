"""`--remove` and the recovery of batch-norm statistics, from the pipeline to the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refusal, run
from rich.console import Console

from resprune import chooser, pipeline, reading, recovery
from resprune.data import open_data
from resprune.judging import Judge
from resprune.records import Budget
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


@pytest.mark.parametrize("nothing", [("--remove", ""), ("--depth", 8)])
def test_removing_nothing_is_bit_equal(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, nothing: tuple[object, ...]
) -> None:
    words = ("--data", image_folder(), "--out", tmp_path / "out", "--json")
    report = pruned_json(cifar_file, *nothing, *words)
    assert report["plan"]["removed"] == []
    assert report["recovery"] == []
    assert report["verified"]["max_abs_difference"] == 0
    assert report["after"] == report["before"]
    before, after = (pipeline.load(place) for place in (cifar_file, tmp_path / "out"))
    state = after.network.state_dict()
    assert state.keys() == before.network.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.network.state_dict().items())


KEYS_RECOVERY = {"kind", "split", "images", "held_out", "divergence", "kept", "removed", "figures", "recipe"}


def pruned_json(*words: object) -> dict[str, Any]:
    result = run("prune", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_class_folders_are_not_read_class_by_class(
    cifar_file: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are chosen, and networks recovered, on images of all classes, though the folders are sorted."""
    chain = pipeline.load(cifar_file)
    images = open_data(image_folder(each=20), chain.preprocessing, chain.classes, batch_size=32)
    label_of = dict[bytes, int]()
    for batch, labels in images:
        assert labels is not None
        label_of |= zip((image.numpy().tobytes() for image in batch), labels.tolist(), strict=True)
    seen = dict[str, list[set[int]]]()

    def spy(module: Any, name: str, position: int) -> None:
        compute = getattr(module, name)

        def spied(*args: Any, **options: Any) -> Any:
            batches = [batch if isinstance(batch, torch.Tensor) else batch[0] for batch in args[position]]
            seen[name] = [{label_of[image.numpy().tobytes()] for image in batch} for batch in batches]
            return compute(*args, **options)

        monkeypatch.setattr(module, name, spied)

    monkeypatch.setattr(reading, "SMALL_IMAGES", 40)
    monkeypatch.setattr(recovery, "affordable_images", lambda chain: 40)
    spy(chooser, "removals", 1)
    spy(recovery, "re_estimate", 1)
    spy(recovery, "compensate", 3)
    choice = pipeline.choose_for(chain, images, Budget(macs=0.7))
    pipeline.prune(chain, choice.plan, images)
    assert seen.keys() == {"removals", "re_estimate", "compensate"}
    assert len(set.union(*seen["removals"])) == len(set.union(*seen["compensate"])) == 10
    assert min(map(len, seen["re_estimate"][:-1])) > 5  # norms see every batch by itself


def test_statistics_are_re_estimated_by_default(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = image_folder()
    words = (cifar_file, "--remove", "1,4", "--data", data, "--batch-size", 4)
    found = pruned_json(*words, "--out", tmp_path / "out")
    tried, second = found["recovery"]
    assert tried.keys() == KEYS_RECOVERY
    assert (tried["kind"], tried["split"], tried["images"], tried["held_out"]) == (
        "batch-norm statistics",
        None,
        16,
        4,
    )
    assert (second["kind"], second["images"], second["held_out"]) == ("compensation", 16, 4)
    for own in (tried, second):
        assert own["kept"] == (own["divergence"]["after"] < own["divergence"]["before"])
        assert (own["figures"] is not None) == own["kept"]
    assert found["raw"].keys() == {"accuracy", "loss"}
    kept = [own["figures"]["loss"] for own in (tried, second) if own["kept"]]
    assert found["after"]["loss"] == [found["raw"]["loss"], *kept][-1]
    # What is written is what the figures are of.
    evaluated = json.loads(run("evaluate", tmp_path / "out", "--data", data, "--json").stdout)
    assert evaluated["loss"] == pytest.approx(found["after"]["loss"], rel=1e-5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["raw"], report["recovery"]) == (found["raw"], found["recovery"])
    section = json.loads((tmp_path / "out" / "config.json").read_text())["resprune"]
    assert section["recovery"] == found["recovery"]
    # Without it the same network is written raw.
    raw = pruned_json(*words, "--out", tmp_path / "raw", "--no-recover")
    assert raw["recovery"] == []
    assert raw["after"]["loss"] == raw["raw"]["loss"] == found["raw"]["loss"]


def outcome(cifar_file: Path, data: Path, monkeypatch: pytest.MonkeyPatch, better: bool) -> pipeline.Pruned:
    """Prune with a recovery that helps, or does not, whatever the images are."""
    divergences = iter([0.5, 0.25, 0.375, 0.125] if better else [0.5, 0.75, 1.0, 0.75])
    monkeypatch.setattr(Judge, "divergence", lambda judge, network: next(divergences))
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
    figures = "batch-norm statistics, 10 images, divergence from the original 0.5 -> "
    if better:
        assert "before raw statistics compensated blocks 8 6 accuracy" in text
        assert f"Kept: {figures}0.25 nats on 10 others." in text
        assert "Kept: compensation, 10 images, divergence from the original 0.25 -> 0.125 nats" in text
        assert "logits equal the origin, removed branches left out before recovery" in text
        assert "Right after the removal: accuracy" in page
        assert "- batch-norm statistics, 10 images without their labels: accuracy" in page
        assert "- compensation, 10 images without their labels: accuracy" in page
        assert pruned.outcome.after != pruned.outcome.raw
        assert pruned.outcome.seen
    else:
        assert "before after blocks 8 6 accuracy" in text
        assert f"Tried and left, since it does not help: {figures}0.75 nats on 10 others." in text
        assert "before recovery" not in text + page
        assert pruned.outcome.after == pruned.outcome.raw
        assert not pruned.outcome.seen


def test_unlabelled_images_recover_too(
    cifar_file: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = outcome(cifar_file, image_folder(each=20) / "class0", monkeypatch, better=True).outcome
    assert [tried.kept for tried in found.recovered] == [True, True]
    assert found.after.accuracy is None


def test_training_images_recover_and_test_images_do_not(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    image_folder("data/train")
    image_folder("data/test", each=1)
    found = pruned_json(cifar_file, "--remove", "1,4", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert (found["recovery"][0]["split"], found["data"]["split"]) == ("train", "test")
    words = ("--split", "test", "--samples", 6, "--data", tmp_path / "data", "--out", tmp_path / "second")
    found = pruned_json(cifar_file, "--remove", "1,4", *words)
    assert found["recovery"][0]["split"] == "test"
    assert found["recovery"][0]["images"] + found["recovery"][0]["held_out"] == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recover"], "--recover needs images; name some with --data"),
        (
            ["--split", "train"],
            "--split names images to choose a plan, to recover or to heal on",
        ),
        (
            ["--split", "train", "--no-recover", "--data", "images"],
            "--split names images to choose a plan, to",
        ),
    ],
)
def test_wishes_that_nothing_answers_are_refused(
    cifar_file: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in refusal(2, "prune", cifar_file, "--depth", 5, "--out", tmp_path / "out", *words)


def test_where_nothing_behind_the_cut_has_weights_nothing_is_tried(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("--depth", 5, "--data", image_folder(), "--out", tmp_path / "out")
    assert pruned_json(cifar_file, *words)["recovery"] == []


def test_seeded_inputs_recover_nothing(cifar_file: Path, tmp_path: Path) -> None:
    found = pruned_json(cifar_file, "--depth", 5, "--out", tmp_path / "out")
    assert (found["recovery"], found["raw"]) == ([], {"accuracy": None, "loss": None})
