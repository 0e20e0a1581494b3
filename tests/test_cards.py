"""Folders as repositories of the Hugging Face Hub: metadata, lines that load them, nothing of this machine."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from conftest import ARCHITECTURES, make_chain, make_images
from huggingface_hub import ModelCard
from training import coloured

import resprune
from resprune import pipeline
from resprune.chain import ResidualChain
from resprune.records import Origin
from resprune.report import hub
from resprune.selection import select


def saved(chain: ResidualChain, folder: Path, *removed: int, data: Path | None = None) -> str:
    """Write a pruned network, and return its card."""
    paths = [block.path for block in chain.blocks]
    plan = select(remove=removed, paths=paths) if removed else select(depth=chain.depth, blocks=chain.depth)
    pruned = pipeline.prune(chain, plan, data, recover=False)
    pipeline.save(pruned, folder)
    return (folder / "README.md").read_text()


def test_the_hub_reads_the_metadata(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    saved(chain, tmp_path / "mine", 3, data=image_folder())
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    told: Any = card.data
    assert (told.library_name, told.pipeline_tag, told.license) == ("resprune", "image-classification", None)
    report = json.loads((tmp_path / "mine" / "report.json").read_text())
    (figures,) = told.eval_results
    assert (told.model_name, figures.metric_type) == ("mine", "accuracy")
    assert figures.metric_value == report["after"]["accuracy"]
    assert (figures.dataset_name, figures.dataset_type) == ("images", "local")


def test_a_limited_drop_is_told_with_the_images_that_judged_it(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    data = image_folder(classes=chain.classes, each=4)
    choice = pipeline.choose_for(chain, data, resprune.Budget(max_drop=100))
    drop = choice.plan.drop
    assert drop is not None
    assert drop.samples == 20  # the other half chose
    pipeline.save(pipeline.prune(chain, choice, data), tmp_path / "mine", read_back=False)
    report = json.loads((tmp_path / "mine" / "report.json").read_text())
    low, high = drop.interval.low, drop.interval.high
    assert low < drop.points < high
    assert report["plan"]["drop"] == {"points": drop.points, "samples": 20, "interval": [low, high]}
    assert report["choice"]["samples"] == 40
    card = (tmp_path / "mine" / "README.md").read_text()
    told_of = f"Judged to cost {drop.points:.2f} points of accuracy, on 20 held-out images"
    assert f"{told_of} (95 %: {low:.2f} to {high:.2f})." in card


@pytest.mark.parametrize(
    ("path", "base"),
    [("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"), ("timm/resnet18", None), ("a.pth", None)],
)
def test_a_base_model_is_one_that_the_hub_has(path: str, base: str | None) -> None:
    summary = replace(make_chain(ARCHITECTURES["torchvision basic"]).summary, origin=Origin(path, "0" * 64, ""))
    told = ModelCard(hub.front_matter("timm", summary)).data
    assert (told.get("base_model"), told.get("model-index")) == (base, None)


@pytest.mark.parametrize(
    ("name", "removed", "libraries"),
    [
        ("torchvision basic", 4, ("timm", "torchvision", "resprune")),
        ("torchvision regnet y", 1, ("resprune",)),
        ("timm deep stem", 1, ("timm", "resprune")),
        ("torchvision regnet x", 1, ("torchvision", "resprune")),
    ],
)
@torch.inference_mode()
def test_the_lines_of_the_card_load_the_network(
    name: str, removed: int, libraries: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES[name])
    card = saved(chain, tmp_path / "mine", removed)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert [re.findall(r"import (\w+)", block)[0] for block in blocks] == list(libraries)
    images = make_images(chain, 2)
    expected = resprune.load("mine", device="cpu").network(images)
    for block in blocks:
        assert len([line for line in block.splitlines() if line]) <= 4
        names: dict[str, Any] = {}
        exec(block, names)
        torch.testing.assert_close(names["model"].cpu()(images), expected, rtol=1e-5, atol=1e-5)


def test_the_command_of_the_card_makes_the_folder_again(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*words: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["resprune", *map(str, words)])
        result = run(*words)
        assert result.exit_code == 0, result.output
        card = (tmp_path / "out" / "README.md").read_text()
        return shlex.split(re.findall(r"```sh\n(.*)\n```", card)[0])

    told = made("prune", cifar_file, "--depth", "5", f"--out={tmp_path / 'out'}")
    assert told == ["resprune", "prune", "resnet.pth", "--depth", "5", "--out=out"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["made"]["command"] == shlex.join(told)
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert made(*told[1:], "--force") == [*told, "--force"]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights


def test_a_card_made_from_python_says_which_command_removes_the_same(tmp_path: Path) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    assert "resprune prune test --remove 3,5 --out mine\n" in saved(chain, tmp_path / "mine", 3, 5)
    assert "resprune prune test --depth 8 --out same\n" in saved(chain, tmp_path / "same")


def test_no_file_names_a_place_of_this_machine(
    cifar_file: Path, tmp_path: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    basic = tmp_path / "basic.pth"
    torch.save(make_chain(ARCHITECTURES["torchvision basic"]).network.state_dict(), basic)
    images, train = image_folder(), coloured(tmp_path / "coloured")
    tuned = (
        "finetune",
        "paper-standard-3",
        "--data",
        train,
        "--steps",
        1,
        "--batch-size",
        8,
        "--device",
        "cpu",
    )
    commands = [
        ("prune", cifar_file, "--depth", 6, "--data", images),
        tuned,
        ("export", basic, "--format", "timm"),
        ("export", basic, "--format", "hf"),
        ("export", basic, "--format", "safetensors"),
        ("export", basic, "--format", "torchvision"),
    ]
    for index, words in enumerate(commands):
        out = tmp_path / "outputs" / str(index)
        out.parent.mkdir(exist_ok=True)
        words = (*words, "--out", out.with_suffix(".safetensors") if "torchvision" in words else out)
        monkeypatch.setattr(sys, "argv", ["resprune", *map(str, words)])
        result = run(*words)
        assert result.exit_code == 0, result.output
    written = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert len(written) > 15
    for path in written:
        content = path.read_bytes()
        for place in (tmp_path, Path(resprune.__file__).parents[1], Path.home(), Path(sys.prefix)):
            assert f"{place}/".encode() not in content, path
