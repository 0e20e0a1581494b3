"""Options that would do nothing are refused where they are typed; in a file of options they are defaults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain
from training import coloured, tiny_chain

import resprune

FINETUNE = [
    (["--epochs", 3, "--steps", 2], "--epochs says how long to train, and so do the steps"),
    (["--milestones", "1,2"], "--milestones is of --schedule steps, and it is cosine"),
    (["--gamma", 0, "--heads", "shared"], "--heads is of the stage cost, and gamma is 0"),
    (
        ["--epochs", 1, "--plain-epochs", 1, "--mixup", 0.4],
        "--mixup is not done in the last epochs, and --plain-epochs 1 are all",
    ),
    (["--optimizer", "adamw", "--momentum", 0.5], "--momentum is of sgd, and the optimizer is adamw"),
    (["--teacher", "none", "--temperature", 2], "--temperature is of a teacher, and there is none"),
    (["--teacher", "none", "--teacher-weight", 0.5], "--teacher-weight is of a teacher, and there is none"),
    (["--teacher-weight", 0, "--temperature", 2], "--temperature is of a teacher, whose weight is 0"),
    (["--recipe", "paper", "--teacher", "original"], "--teacher is of distillation, which has no weight here"),
    (
        ["--gamma", 0, "--teacher-weight", 1, "--label-smoothing", 0.1],
        "--label-smoothing is of labels, and the teacher has the whole weight",
    ),
]


def pruned_folder(folder: Path, name: str = "net") -> Path:
    """A checkpoint of a tiny network."""
    chain = tiny_chain()
    resprune.save(resprune.prune(chain, resprune.select(depth=4, blocks=4)), folder / name, read_back=False)
    return folder / name


@pytest.mark.parametrize(("options", "told"), FINETUNE)
def test_finetune(options: list[object], told: str, tmp_path: Path) -> None:
    checkpoint, data = pruned_folder(tmp_path), coloured(tmp_path / "data")
    found = refusal(2, "finetune", checkpoint, "--data", data, "--out", tmp_path / "out", *options)
    assert told in found
    assert found.rstrip().endswith("; leave it out")
    assert not (tmp_path / "out").exists()


def test_a_network_from_scratch_has_no_teacher(tmp_path: Path) -> None:
    data = coloured(tmp_path / "data")
    asked = ["finetune", "paper-homogeneous-2", "--data", data, "--out", tmp_path / "out", "--temperature", 2]
    assert "--temperature is of a teacher, and there is none" in refusal(2, *asked)


PRUNE = [
    (
        ["--depth", 3, "--method", "stagewise"],
        "--method says which blocks may go for a budget, and they are named",
    ),
    (["--depth", 3, "--latency-batch", 4], "--latency-batch is of --speedup, and of --frontier"),
    (["--depth", 3, "--control-seeds", 2], "--control-seeds is of --control"),
    (
        ["--depth", 3, "--samples", 20],
        "--samples is of images to choose a plan or to recover on, and none are read",
    ),
    (["--depth", 3, "--test-split", "test"], "--test-split is of images, and none are named"),
    (["--depth", 3, "--batch-size", 4], "--batch-size is of images, and none are named"),
    (
        ["--frontier", "--test-split", "test"],
        "--test-split is of a network that is written, and --frontier writes none",
    ),
    (["--frontier", "--control-seeds", 9], "--control-seeds is of a network that is written"),
    (["--frontier", "--heal", 1, "--heal-rounds", 2], "--heal-rounds is of a network that is written"),
    (["--frontier", "--heal", 1, "--heal-rivals", 2], "--heal-rivals is of a network that is written"),
    (["--depth", 3, "--heal", 1, "--heal-rivals", 2], "--heal-rivals is of blocks that a budget chooses, and"),
    (["--target-macs", 0.5, "--heal-rivals", 2], "--heal-rivals is of a healing, and there is none"),
    (
        ["--target-macs", 0.5, "--max-drop", 1, "--heal", 1, "--heal-rivals", 2],
        "--heal-rivals is of budgets without --max-drop, with which every plan is healed in full",
    ),
    (
        ["--target-macs", 0.5, "--method", "tail", "--heal", 1, "--heal-rivals", 2],
        "--heal-rivals is of --method surgical: others have no block to exchange",
    ),
]


@pytest.mark.parametrize(("options", "told"), PRUNE)
def test_prune(options: list[object], told: str, tmp_path: Path) -> None:
    checkpoint, out = pruned_folder(tmp_path), tmp_path / "out"
    where = [] if "--frontier" in options else ["--out", out]
    assert told in refusal(2, "prune", checkpoint, *options, *where)
    assert not out.exists()


BESIDE = [
    (["bench", "--rounds", 3, "--seconds", 1], "--seconds says how long to measure, and so does --rounds"),
    (["check", "--max-macs", "1G", "--seconds", 1], "--seconds is of --min-speedup"),
    (["check", "--max-macs", "1G", "--latency-batch", 2], "--latency-batch is of --min-speedup"),
    (["check", "--max-macs", "1G", "--samples", 10], "--samples is of images, and none are named"),
    (["check", "--max-macs", "1G", "--split", "test"], "--split is of images, and none are named"),
]


@pytest.mark.parametrize(("options", "told"), BESIDE)
def test_bench_and_check(options: list[object], told: str, cifar_file: Path) -> None:
    command, *others = options
    assert told in refusal(2, command, cifar_file, *others)


def test_the_same_in_a_file_is_a_default(tmp_path: Path) -> None:
    config = tmp_path / "resprune.yaml"
    config.write_text("prune:\n  method: stagewise\n  latency-batch: 4\n  control-seeds: 2\n", encoding="utf-8")
    done = run("prune", pruned_folder(tmp_path), "--depth", 3, "--out", tmp_path / "out", "--config", config)
    assert done.exit_code == 0, done.stderr


def test_two_outputs_need_two_names(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data, file = image_folder(each=1), tmp_path / "x.csv"
    for other in ("--classwise-csv", "--parquet", "--report"):
        asked = ["analyze", cifar_file, "--data", data, "--csv", file, other, file]
        assert "x.csv: is named as two outputs; give each a name of its own" in refusal(2, *asked)
        assert not file.exists()
    null = ["--csv", "/dev/null", "--classwise-csv", "/dev/null"]
    assert run("analyze", cifar_file, "--data", data, "--no-drops", *null).exit_code == 0


def test_a_weight_alone_stays_what_it_is(tmp_path: Path) -> None:
    """The recipe's own goes to 0 in the end."""
    checkpoint, data, out = pruned_folder(tmp_path), coloured(tmp_path / "data"), tmp_path / "out"
    asked = ["finetune", checkpoint, "--data", data, "--recipe", "heal", "--steps", 2, "--batch-size", 8]
    asked += ["--teacher-weight", 0.5]
    assert run(*asked, "--feature-weight", 100, "--out", out).exit_code == 0
    recipe = (out / "config.json").read_text(encoding="utf-8")
    assert '"feature_weight": 100.0' in recipe
    assert '"feature_end": null' in recipe


def test_a_drop_that_few_images_judge_is_told_to_be_coarse(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    network = make_chain(ARCHITECTURES["cifar option A"])
    nothing = resprune.select(depth=network.depth, blocks=network.depth)
    resprune.save(resprune.prune(network, nothing), tmp_path / "net", read_back=False)
    data = image_folder(classes=network.classes, each=4)
    asked = [
        "prune",
        tmp_path / "net",
        "--remove",
        "",  # loses nothing, whoever judges
        "--data",
        data,
        "--dry-run",
        "--max-drop",
    ]
    coarse = run(*asked, 99, "--samples", 2)
    assert "Note: 1 image judged the drop, where one is 100 points already" in coarse.stderr
    assert coarse.exit_code == 0
    fine = run(*asked, 100)
    assert fine.exit_code == 0
    assert "judged the drop" not in fine.stderr
    assert "points of accuracy lost on 20 held-out images" in fine.stdout


def test_a_rate_that_never_falls_is_told(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = image_folder(classes=4, each=4)
    asked = ["finetune", "paper-standard-3", "--data", data, "--recipe", "paper", "--batch-size", 8]
    constant = run(*asked, "--epochs", 1, "--out", tmp_path / "constant")
    assert constant.exit_code == 0, constant.output
    note = "Note: the rate stays as it is for 1 epoch: it falls after epoch 82 only; name earlier"
    assert note in " ".join(constant.stderr.split())
    falling = run(*asked, "--epochs", 2, "--milestones", 1, "--out", tmp_path / "falling")
    assert falling.exit_code == 0, falling.output
    assert "Note:" not in falling.stderr
