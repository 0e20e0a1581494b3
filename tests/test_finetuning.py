"""`resprune finetune` as its users meet it: the folder, resuming, several processes, refusals."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import typer
from commands import refusal, run
from conftest import ARCHITECTURES, divergence, make_chain, make_images
from training import CLASSES, RECIPE, TINY, coloured, opened, same_tensors, tiny_chain

import resprune
from resprune import journal, trajectory
from resprune.cli.app import app
from resprune.data import open_data
from resprune.errors import DataError, OutputError, TrainingError, UsageError, VerificationError
from resprune.exits import SkipChainExits
from resprune.exporting import folder as output
from resprune.exporting import verifying
from resprune.families import preact
from resprune.finetuning import finetune
from resprune.records import RECIPES, Preprocessing, Recipe
from resprune.surgery import remove_blocks

SHORT = replace(RECIPE, gamma=0.1)
FLAGS = ("--epochs", 2, "--batch-size", 16, "--rate", 0.05, "--hold-out", 0.25, "--warm-up", 0, "--gamma", 0.1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny network and its preprocessing."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    folder.mkdir()
    output.write_network(tiny_chain(), folder)
    return folder


def test_heal_needs_the_original_and_no_labels(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    original = make_chain(ARCHITECTURES["cifar option A"])
    pruned = remove_blocks(original, resprune.select(remove=(1, 4), blocks=original.depth))
    flat = image_folder(each=60) / "class0"
    recipe = replace(RECIPES["heal"], batch_size=16, steps=12, hold_out=0.2, rate=0.002)
    healed = resprune.heal(pruned, original, flat, recipe=recipe, out=tmp_path / "healed", device="cpu")
    images = open_data(flat, original.preprocessing, original.classes)
    before, after = (divergence(original, own, images) for own in (pruned, healed.chain))
    assert after < before
    assert healed.chain.architecture == pruned.architecture
    assert same_tensors(resprune.load(tmp_path / "healed", device="cpu"), healed.chain)
    assert healed.outcome.rows[-1].train_loss is None
    with pytest.raises(DataError, match="no labels to train with"):
        finetune(pruned, flat, recipe=replace(recipe, feature_weight=0.0), teacher=None, device="cpu")


def test_a_teacher_of_states_must_have_the_same_stages(images: Path) -> None:
    wide = tiny_chain(architecture=preact.architecture("wide", [2, 2], [4, 12], in_channels=3, classes=CLASSES))
    with pytest.raises(
        UsageError, match="states have the shapes 4x16x16, 12x8x8, the network's 4x16x16, 8x8x8"
    ):
        resprune.heal(tiny_chain(), wide, images, device="cpu")


def test_a_plan_that_the_network_was_not_pruned_by_is_refused(images: Path) -> None:
    original = make_chain(ARCHITECTURES["cifar option A"])
    plan, other = (resprune.select(remove=gone, blocks=original.depth) for gone in ((1, 4), (1, 2)))
    assert len(plan.removed) == len(other.removed)
    with pytest.raises(UsageError, match="leaves 6 blocks of the teacher that are not the network's 6"):
        resprune.heal(remove_blocks(original, plan), original, images, plan=other, device="cpu")


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_the_folder_is_a_checkpoint_with_the_exits_of_training(
    heads: str, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    result = run("finetune", checkpoint, "--data", images, *FLAGS, "--heads", heads, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    printed = json.loads(result.stdout)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert all(line.keys() == lines[0].keys() for line in lines)
    files = ["README.md", "config.json", "exits.safetensors", "last.pt", "metrics.jsonl", "model.safetensors"]
    assert printed["output"] == {"folder": str(out), "files": [*files, "report.json"]}
    report = json.loads((out / "report.json").read_text())
    assert report["read_back"] == printed["read_back"]
    assert (report["read_back"]["max_abs_difference"], report["read_back"]["inputs"]) == (0, "images")
    assert printed["final"] == lines[-1]["final"]
    assert all(line["made"] == report["made"] for line in lines)
    assert printed["teacher"]["sha256"] == printed["checkpoint"]["sha256"] == lines[0]["teacher"]["sha256"]
    assert lines[0]["data"]["sha256"] == lines[0]["held_out"]["sha256"] == printed["data"]["sha256"]
    assert str(tmp_path) not in (out / "metrics.jsonl").read_text() + (out / "config.json").read_text()
    # What the last line says of the best epoch is what another command measures on the same images.
    back = resprune.load(out, device="cpu")
    parameters = [name for name in back.exit_state if not name.endswith(("running_mean", "running_var"))]
    assert bool(parameters) is (heads == "separate")
    best = lines[printed["best_epoch"]]
    held = resprune.finetuning.open_training(  # pyright: ignore[reportAttributeAccessIssue]
        images, back.preprocessing, back.classes, hold_out=0.25
    ).held_out
    trajectory = resprune.analyze(back, held, drops=False).trajectory
    assert [row.exit_accuracy for row in trajectory.rows] == [own["accuracy"] for own in best["exits"]]
    assert trajectory.final.accuracy == best["final"]["accuracy"]
    # Pruned, the network answers as the exit did, with that exit's own head.
    pruned = resprune.prune(back, resprune.select(depth=2, blocks=4), images, split="train", recover=False)
    assert pruned.outcome.verified.max_abs_difference <= pruned.outcome.verified.tolerance
    x = make_images(back, 4)
    with torch.inference_mode():
        torch.testing.assert_close(pruned.chain(x), SkipChainExits(back)(x)[:, 2], rtol=1e-4, atol=1e-5)
    if heads == "separate":  # whose kind the checkpoint says
        more = ("finetune", out, "--data", images, *FLAGS, "--gamma", "0:0.1", "--out", tmp_path / "more")
        assert "separate heads learn at the rate divided by gamma, and gamma is 0" in refusal(2, *more)
        assert not (tmp_path / "more").exists()


def test_progress_goes_to_stderr_one_line_an_epoch(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    result = run("finetune", checkpoint, "--data", images, *FLAGS, "--vanish", 1e-3, "--out", tmp_path / "t")
    lines = result.stderr.splitlines()
    assert [line.split()[1] for line in lines] == ["0/2", "1/2", "2/2"]
    assert "zero branches" in lines[-1]
    assert "held-out" in lines[-1]
    assert "Epoch " in result.stdout


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(
    checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    arguments = ["finetune", checkpoint, "--data", images, *FLAGS, "--epochs", 40, "--ema", 0.9]
    arguments += ["--threads", 1, "--device", "cpu"]
    whole = run(*arguments, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    command = [sys.executable, "-m", "resprune", *map(str, arguments), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not metrics.exists() or metrics.read_text().count("\n") < 6):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < metrics.read_text().count("\n") < 41
    (tmp_path / "killed" / ".last.pt.draft").write_bytes(b"half")  # what a kill leaves at worst
    resumed = run(*arguments, "--out", tmp_path / "killed", "--resume")
    assert resumed.exit_code == 0, resumed.output
    for name in ("model.safetensors", "exits.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_killed_between_two_files_is_mended(images: Path, tmp_path: Path) -> None:
    chain, out = tiny_chain(), tmp_path / "run"
    whole = finetune(chain, images, out=out, recipe=SHORT, device="cpu")
    for name in ("config.json", "model.safetensors", "metrics.jsonl"):
        (out / name).unlink()
    again = finetune(chain, images, out=out, recipe=SHORT, resume=True, device="cpu")
    assert same_tensors(again.chain, whole.chain)
    back = resprune.load(out, device="cpu")
    assert same_tensors(back, whole.chain)
    assert (out / "metrics.jsonl").read_text().count("\n") == 3


TWICE = """
import sys
from dataclasses import replace

from resprune import finetune, load
from resprune.cli import main
from resprune.records import Recipe

checkpoint, images, out = sys.argv[1:4]
recipe = Recipe(epochs=1, batch_size=16, rate=0.5, hold_out=0.25, gamma=0.1, ema=0.5, sync_norms=False)
finetune(load(checkpoint, device="cpu"), images, out=out, recipe=recipe, device="cpu", batch_size=2)
sys.argv[1:] = sys.argv[4:]
main()
"""
"""Trains by itself, and then as the command line, whose arguments come after the first three."""


def test_two_processes_give_the_weights_of_one(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    arguments = ["finetune", checkpoint, "--data", images, *FLAGS[2:], "--steps", 4, "--device", "cpu"]
    arguments = [*map(str, arguments), "--threads", "1", "--accumulate", "1", "--augment", "crop-flip"]
    one = run(*arguments, "--out", tmp_path / "one")
    assert one.exit_code == 0, one.output
    program, first = tmp_path / "twice.py", tmp_path / "first"
    program.write_text(TWICE)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, program, checkpoint, images, first, *arguments, "--out", tmp_path / "two"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "destroy_process_group" not in done.stderr
    assert "FutureWarning" not in done.stderr
    assert done.stdout.count("is kept") == 1
    alone, together = (resprune.load(tmp_path / name, device="cpu") for name in ("one", "two"))
    theirs = together.network.state_dict()
    for name, tensor in alone.network.state_dict().items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    for name, rows in alone.exit_state.items():
        torch.testing.assert_close(together.exit_state[name], rows, rtol=1e-4, atol=1e-5, msg=name)
    figures = [
        json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[-1]) for n in ("one", "two")
    ]
    assert figures[0]["final"]["accuracy"] == figures[1]["final"]["accuracy"]
    assert figures[0]["train"]["loss"] == pytest.approx(figures[1]["train"]["loss"], rel=1e-4)
    _assert_measured_is_written(first, images)


def _assert_measured_is_written(folder: Path, images: Path) -> None:
    """Check that the figures of several processes with norms of their own are those of the network written."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    back = resprune.load(folder, device="cpu")
    held_out = opened(images).held_out
    assert held_out is not None
    tally = trajectory.evaluate(back, held_out)
    assert rows[-1]["final"]["loss"] == pytest.approx(tally.loss, rel=1e-4)


def test_a_full_disk_is_told_and_the_state_before_stays(images: Path, tmp_path: Path) -> None:
    chain, out = tiny_chain(), tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up(outcome: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            finetune(chain, images, out=out, recipe=SHORT, device="cpu", on_epoch=fill_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "--resume" in str(caught.value)
    assert [entry.name for entry in out.iterdir() if entry.name.endswith(".draft")] == []
    whole = finetune(chain, images, recipe=SHORT, device="cpu")
    resumed = finetune(chain, images, out=out, recipe=SHORT, resume=True, device="cpu")
    assert same_tensors(resumed.chain, whole.chain)


def test_a_loss_that_is_not_finite_keeps_the_state_before(images: Path, tmp_path: Path) -> None:
    wild = replace(SHORT, rate=1e20)
    with pytest.raises(TrainingError, match="the folder holds the last state"):
        finetune(tiny_chain(), images, out=tmp_path / "run", recipe=wild, device="cpu")
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["step"] == 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["state_dict"].values())


def test_a_network_from_scratch_by_name(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "fresh"
    arguments = ("--recipe", "paper", "--steps", 2, "--batch-size", 16, "--out", out)
    result = run("finetune", "paper-standard-3", "--data", images, *arguments)
    assert result.exit_code == 0, result.output
    section = json.loads((out / "config.json").read_text())["resprune"]
    assert section["recipe"]["milestones"] == [82, 123]
    assert section["architecture"]["options"]["stem_norm"] is True
    back = resprune.load(out, device="cpu")
    assert (back.depth, back.classes) == (3, 4)
    assert "Distillation" not in (out / "README.md").read_text()


def test_photographs_are_scaled_cropped_and_mirrored_by_timm(images: Path, tmp_path: Path) -> None:
    architecture = ARCHITECTURES["torchvision basic"]
    architecture = replace(architecture, options={**architecture.options, "classes": 4})
    recipe = Preprocessing(3, 32, 32, (0.5,) * 3, (0.25,) * 3, resize=40, source="test")
    chain = replace(make_chain(architecture), preprocessing=recipe)
    for auto_augment in (None, "rand-m9-mstd0.5"):
        choices = replace(SHORT, steps=2, auto_augment=auto_augment, mixup=0.2)
        tuned = finetune(chain, images, recipe=choices, device="cpu", workers=0)
        assert tuned.outcome.rows[-1].steps == 2
        assert tuned.outcome.rows[-1].train_exit_loss is not None
        assert tuned.chain.exit_state  # projections with norms: statistics for every exit


def test_every_choice_of_a_recipe_is_an_option() -> None:
    command = typer.main.get_command(app).commands["finetune"]  # pyright: ignore[reportAttributeAccessIssue]
    known = {parameter.name.rstrip("_") for parameter in command.params}
    assert {field.name for field in fields(Recipe)} - known == {"nesterov", "gamma_end", "feature_end"}


def test_options_reach_the_recipe(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ("--gamma", "0:0.2", "--lambda", 1e-3, "--optimizer", "adamw", "--milestones", "1,2", "--seed", 3)
    more = ("--schedule", "steps", "--no-sync-norms", "--no-channels-last", "--teacher", "none", "--clip", 2)
    command = ("finetune", checkpoint, "--data", images, "--steps", 1, "--batch-size", 8, "--out", out)
    assert run(*command, *flags, *more).exit_code == 0
    recipe = json.loads((out / "config.json").read_text())["resprune"]["recipe"]
    expected = {"gamma": 0.0, "gamma_end": 0.2, "branch_decay": 1e-3, "optimizer": "adamw", "seed": 3}
    expected |= {"milestones": [1, 2], "schedule": "steps", "sync_norms": False, "channels_last": False}
    assert {name: recipe[name] for name in expected} == expected
    assert "distillation" not in (out / "README.md").read_text()


def test_a_teacher_from_another_checkpoint(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out, flags = tmp_path / "out", ("--steps", 1, "--batch-size", 8)
    command = ("finetune", checkpoint, "--data", images, *flags, "--out", out)
    assert run(*command, "--teacher", checkpoint).exit_code == 0
    assert f"distillation from {checkpoint.name}" in (out / "README.md").read_text()
    assert "classes" in refusal(2, *command[:-1], tmp_path / "no", "--teacher", "demo")


def test_figures_are_tracked_where_asked(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    arguments = ("--data", images, *FLAGS, "--track", "tensorboard", "--out", out)
    result = run("finetune", checkpoint, *arguments)
    assert result.exit_code == 0, result.output
    files = sorted((out / "tracks").rglob("events*"))
    logged = [EventAccumulator(str(file)).Reload() for file in files]
    found = [log.Scalars("final/accuracy") for log in logged if "final/accuracy" in log.Tags()["scalars"]]
    assert [event.step for event in found[0]] == [0, 3, 6]


REFUSALS: dict[str, tuple[int, tuple[object, ...], str]] = {
    "no folder": (2, ("--out", None), "no output folder"),
    "negative gamma": (2, ("--gamma", -0.1), "gamma must be at least 0"),
    "negative lambda": (2, ("--lambda", -1), "branch_decay must be at least 0"),
    "gamma is no number": (2, ("--gamma", "much"), "--gamma much is no number"),
    "recipe": (2, ("--recipe", "best"), "no recipe 'best'"),
    "heads": (2, ("--heads", "own"), "heads 'own' is none of shared, separate"),
    "milestones": (2, ("--milestones", "1;2"), "no list of epochs"),
    "separate without gamma": (2, ("--heads", "separate", "--gamma", 0), "gamma is 0"),
    "steps without milestones": (
        2,
        ("--schedule", "steps"),
        "the rate falls at milestones, and there are none",
    ),
    "tracker": (2, ("--track", "paper"), "no tracker 'paper'"),
    "augmentation": (2, ("--augment", "wild"), "unknown augmentation 'wild'"),
    "device": (2, ("--device", "cpu:0"), "nothing can be trained on device 'cpu:0'"),
    "device that is not there": (2, ("--device", "cuda:99"), "device 'cuda:99' cannot be used"),
    "batch": (2, ("--batch-size", 15, "--accumulate", 2), "cannot be cut into 1 process"),
    "pairs": (
        2,
        ("--batch-size", 15, "--mixup", 0.2),
        "that are seen at once, and 15 is an odd number",
    ),
    "unwritable": (3, ("--out", "/dev/null/out"), "/dev/null/out: cannot be written (Not a directory)"),
    "nothing there": (3, ("--data", "nowhere"), "no such file or folder"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_use_is_told_before_any_training(
    case: str, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    status, flags, message = REFUSALS[case]
    given: dict[str, object] = {"--data": images, "--out": tmp_path / "out"}
    given |= {str(name): value for name, value in zip(flags[::2], flags[1::2], strict=True)}
    arguments = [part for name, value in given.items() if value is not None for part in (name, value)]
    assert message in refusal(status, "finetune", checkpoint, *arguments)
    assert not (tmp_path / "out").exists()


def test_data_that_cannot_be_learned_from_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    flat, two = tmp_path / "flat", tmp_path / "two"
    coloured(tmp_path / "source", each=1)
    flat.mkdir()
    (tmp_path / "source" / "train" / "class0" / "0.png").rename(flat / "0.png")
    (two / "train").mkdir(parents=True)
    for name in ("class1", "class2"):
        (tmp_path / "source" / "train" / name).rename(two / "train" / name)
    out = ("--out", tmp_path / "out")
    assert "no labels" in refusal(3, "finetune", checkpoint, "--data", flat, *out)
    assert "2 classes, the network 4" in refusal(3, "finetune", checkpoint, "--data", two, *out)
    (tmp_path / "empty" / "train" / "class0").mkdir(parents=True)
    assert "no images" in refusal(3, "finetune", checkpoint, "--data", tmp_path / "empty", *out)
    (tmp_path / "only" / "test").mkdir(parents=True)
    coloured(tmp_path / "other", each=1)
    (tmp_path / "other" / "train").rename(tmp_path / "only" / "test" / "x")
    assert "train" in refusal(2, "finetune", checkpoint, "--data", tmp_path / "only", *out)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_not_this_runs_are_refused(images: Path, tmp_path: Path) -> None:
    chain, out = tiny_chain(), tmp_path / "run"
    finetune(chain, images, out=out, recipe=SHORT, device="cpu")
    before = {entry.name: entry.read_bytes() for entry in out.iterdir()}

    def refused(**changes: object) -> str:
        options: dict[str, object] = {"chain": chain, "data": images, "device": "cpu"}
        options |= {"out": out, "recipe": SHORT, "resume": True}
        with pytest.raises((UsageError, OutputError)) as caught:
            finetune(**options | changes)  # pyright: ignore[reportArgumentType]
        return str(caught.value)

    assert "gamma 0.3 instead of 0.1" in refused(recipe=replace(SHORT, gamma=0.3))
    assert "teacher None instead of" in refused(teacher=None)
    assert "samples 24 instead of 48" in refused(samples=32)
    assert "mean [0.4, 0.5, 0.5] instead of [0.5, 0.5, 0.5]" in refused(
        chain=replace(chain, preprocessing=replace(chain.preprocessing, mean=(0.4, 0.5, 0.5)))
    )
    learned = chain.duplicate()
    with torch.no_grad():
        next(learned.network.parameters()).add_(1)
    assert "belongs to another run: weights " in refused(chain=learned)
    assert "belongs to another run: teacher_weights " in refused(teacher=learned)
    others = coloured(tmp_path / "others" / images.name, each=16)
    shutil.copy(images / "train/class0/0.png", others / "train/class0/1.png")
    assert "sha256 " in refused(data=others)
    assert "exists already, with the state of a run; repeat that run's command with --resume" in refused(
        resume=False
    )
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "notes.txt").write_text("mine")
    assert "no run to resume" in refused(out=stranger)
    assert "not replaced" in refused(out=stranger, resume=False, force=True)
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == before
    assert (stranger / "notes.txt").read_text() == "mine"
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "last.pt").write_bytes(b"not a state")
    with pytest.raises(resprune.ResPruneError, match="no state of a run"):
        finetune(chain, images, out=damaged, recipe=SHORT, resume=True, device="cpu")
    begun = finetune(chain, images, out=tmp_path / "new", recipe=SHORT, resume=True, device="cpu")
    assert begun.outcome.best.epoch > 0
    assert TINY.name == begun.outcome.result.architecture.name


def test_a_network_that_is_read_back_otherwise_is_withdrawn(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, out = tiny_chain(), tmp_path / "run"

    def fail(*arguments: object) -> None:
        raise VerificationError("the logits differ")

    with monkeypatch.context() as patch:
        patch.setattr(verifying, "read_folder", fail)
        with pytest.raises(VerificationError, match=r"no network is left there, but last\.pt"):
            finetune(chain, images, out=out, recipe=SHORT, device="cpu")
        left = ["last.pt", "metrics.jsonl"]
        assert sorted(path.name for path in out.iterdir()) == left
        patch.setattr(journal, "LONG_EPOCH", 0.0)  # then the first network is not even put there
        with pytest.raises(VerificationError, match="the logits differ"):
            finetune(chain, images, out=tmp_path / "long", recipe=SHORT, device="cpu")
        assert sorted(path.name for path in (tmp_path / "long").iterdir()) == left
    resumed = finetune(chain, images, out=out, recipe=SHORT, resume=True, device="cpu")
    assert resumed.read_back is not None
    assert resumed.read_back.max_abs_difference == 0
    assert same_tensors(resprune.load(out, device="cpu"), resumed.chain)
