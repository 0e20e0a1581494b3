"""Networks to compare a pruned one with: random removals and training from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain, make_images
from test_surgery import removing
from torch import nn

from resprune import pipeline
from resprune.controls import BAND_SEEDS, check_controls, random_band, random_plans
from resprune.errors import UsageError
from resprune.surgery import remove_blocks


def test_random_plans_are_drawn_by_their_seed() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    plans = random_plans(chain, 3, 8)
    assert [plan.rule for plan in plans.values()] == [f"random, seed {seed}" for seed in plans]
    assert all(len(set(plan.removed)) == 3 for plan in plans.values())
    assert all(sorted((*plan.removed, *plan.kept)) == list(range(chain.depth)) for plan in plans.values())
    assert plans == random_plans(chain, 3, 8)
    assert list(random_plans(chain, 3, 9).items())[:8] == list(plans.items())


@pytest.mark.parametrize(
    ("count", "draws", "expected"), [(3, 20, 20), (7, 5, 5), (7, 9, 8), (8, 3, 1), (0, 3, 1)]
)
def test_random_plans_are_never_the_same_twice(count: int, draws: int, expected: int) -> None:
    plans = random_plans(make_chain(ARCHITECTURES["cifar option A"]), count, draws)
    assert len(plans) == len({plan.removed for plan in plans.values()}) == expected


def test_from_scratch_is_refused_before_anything_is_read() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    chain.network.get_submodule("conv1").gain = nn.Parameter(torch.ones(3))
    with pytest.raises(UsageError, match=r"conv1\.gain would keep its trained value from scratch"):
        check_controls(["random", "scratch"], chain, heals=True, images=True)
    check_controls(["random"], chain, heals=True, images=True)


def test_the_band_is_what_cut_networks_give() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = make_images(chain, 12)
    band = random_band(chain, [(part, None) for part in images.split(5)], 3)
    assert band.removed == 3
    assert len(band.change_relative) == len(band.agreement) == BAND_SEEDS
    with torch.inference_mode():
        final = chain(images)
        for seed, plan in enumerate(random_plans(chain, 3, BAND_SEEDS).values()):
            cut = remove_blocks(chain, removing(chain, *plan.removed))(images)
            change = float((cut - final).norm() / final.norm())
            agreement = float((cut.argmax(1) == final.argmax(1)).float().mean())
            assert band.change_relative[seed] == pytest.approx(change, rel=1e-4)
            assert band.agreement[seed] == pytest.approx(agreement)


def test_healing_and_controls_from_the_command_line(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    image_folder("data/train", each=6)
    image_folder("data/test", each=2)
    words = ("prune", cifar_file, "--data", tmp_path / "data", "--remove", "1,4", "--batch-size", 16)
    healing = ("--heal-steps", 3, "--heal-precision", "fp32")
    healing += ("--control", "random", "--control", "scratch", "--control-seeds", 2)
    result = run(*words, *healing, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    healed = found["recovery"][-1]
    assert healed["kind"] == "healing"
    assert (healed["recipe"]["steps"], healed["recipe"]["precision"]) == (3, "fp32")
    assert healed["split"] == "train"
    assert healed["images"] + healed["held_out"] == 60
    assert healed["kept"] == (healed["divergence"]["after"] < healed["divergence"]["before"])
    said = [line for line in result.stderr.splitlines() if line.startswith(("Healing: epoch 1", "Control"))]
    # Which network an epoch is of: the plan's, then each control's.
    assert [line.partition(" epoch")[0].partition(":")[0] for line in said] == [
        "Healing",
        *("Control, at random, seed 0", "Healing", "Control, at random, seed 1", "Healing"),
        *(
            "Control, trained from scratch, seed 0",
            "Healing",
            "Control, trained from scratch, seed 1",
            "Healing",
        ),
    ]
    assert "Healing: epoch 1, accuracy" in said[0]
    assert said[5].endswith(": without blocks 1, 4 (2)")
    kinds = [(control["kind"], control["seed"]) for control in found["controls"]]
    assert kinds == [("random", 0), ("random", 1), ("scratch", 0), ("scratch", 1)]
    for control in found["controls"]:
        assert len(control["removed"]) == 2
        assert 0 <= control["after"]["accuracy"] <= 1
        assert (control["raw"] is None) == (control["kind"] == "scratch")
    losses = [control["after"]["loss"] for control in found["controls"]]
    assert len(set(losses)) == 4
    # What is written is what the figures are of.
    again = json.loads(run("evaluate", tmp_path / "out", "--data", tmp_path / "data", "--json").stdout)
    assert again["loss"] == pytest.approx(found["after"]["loss"], rel=1e-4)
    shown = run(*words, *healing, "--heal-rounds", 2, "--out", tmp_path / "second").stdout
    assert "3 steps, without 1 of 2 blocks, divergence from the original" in " ".join(shown.split())
    assert "Control: as many blocks removed at random, 2 seeds: accuracy" in " ".join(shown.split())
    assert "Control: the same shape trained from scratch, 2 seeds: accuracy" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--control", "scratch"], "trains for as long as the healing, and there is none; add --heal EPOCHS"),
        (["--control", "best"], "no control 'best'; choose from random, scratch"),
        (["--heal", 1, "--heal-steps", 2], "--heal and --heal-steps both say how long to heal"),
        (["--heal-rate", 0.1], "--heal-rate is of a healing, and there is none; add --heal EPOCHS"),
        (
            ["--heal-precision", "fp32"],
            "--heal-precision is of a healing, and there is none; add --heal EPOCHS",
        ),
        (["--heal-rounds", 2], "--heal-rounds is of a healing, and there is none; add --heal EPOCHS"),
        (["--heal", 1, "--heal-rate", -1], "rate must be above 0, got -1"),
        (["--heal", 1, "--heal-precision", "fp8"], "precision 'fp8' is none of auto, fp32, bf16"),
    ],
)
def test_wishes_that_contradict_each_other(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, words: list[object], message: str
) -> None:
    given = ("prune", cifar_file, "--remove", 1, "--data", image_folder(), "--out", tmp_path / "out")
    assert message in refusal(2, *given, *words)
    assert not (tmp_path / "out").exists()


def test_healing_and_controls_need_images(cifar_file: Path, tmp_path: Path) -> None:
    given = ("prune", cifar_file, "--remove", 1, "--out", tmp_path / "out")
    assert "--heal needs images; name some with --data" in refusal(2, *given, "--heal", 1)
    assert "controls are compared on images" in refusal(2, *given, "--control", "random")


def test_controls_without_labels_are_refused_before_a_search(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(pipeline, "choose_for")
    given = ("prune", cifar_file, "--target-macs", 0.7, "--out", tmp_path / "out", "--control", "random")
    said = refusal(3, *given, "--data", image_folder() / "class0")
    assert "no labels, and controls are compared by their accuracies; use labelled images" in said
