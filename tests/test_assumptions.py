"""What shapes do not tell: listed, changed by flags, and where labels say that it is wrong, named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from commands import refusal, run
from conftest import ARCHITECTURES, CIFAR, SHARED, make_chain, needs_shared, randomise
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from resprune import doubt, pipeline
from resprune.errors import UsageError
from resprune.records import Preprocessing

RESNET20 = SHARED / "checkpoints" / "resnet20-cifar10.th"


@pytest.fixture
def trailing(tmp_path: Path) -> Path:
    """A state dict whose option-A shortcuts pad behind, which its names and shapes do not tell."""
    path = tmp_path / "trailing.safetensors"
    save_file(dict(make_chain(ARCHITECTURES["cifar option A, trailing"]).network.state_dict()), path)
    return path


@pytest.fixture
def bottleneck(tmp_path: Path) -> Path:
    path = tmp_path / "bottleneck.pth"
    torch.save(make_chain(ARCHITECTURES["torchvision bottleneck"]).network.state_dict(), path)
    return path


def inspected(*arguments: object) -> dict[str, Any]:
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_inspect_lists_what_was_assumed_with_the_flags_that_change_it(trailing: Path) -> None:
    found = inspected(trailing)["assumptions"]
    assert [(a["name"], a["value"], a["others"]) for a in found] == [
        ("padding", "centred", ["--assume padding=trailing"])
    ]
    assert "--assume padding=trailing" in " ".join(run("inspect", trailing).stdout.split())


def test_a_flag_that_inspect_prints_does_what_it_says(trailing: Path) -> None:
    asked = inspected(trailing)["assumptions"][0]["others"][0].split()
    changed = inspected(trailing, *asked)
    assert changed["options"]["padding"] == "trailing"
    assert [(a["value"], a["given"]) for a in changed["assumptions"]] == [("trailing", True)]
    images = torch.randn(3, 1, 32, 32)
    network = make_chain(ARCHITECTURES["cifar option A, trailing"]).network
    opened = pipeline.load(trailing, assume={"padding": "trailing"}).network
    assert torch.equal(opened(images), network(images))
    assert not torch.equal(pipeline.load(trailing).network(images), network(images))


def test_the_stride_of_version_1_is_a_flag(bottleneck: Path) -> None:
    network = pipeline.load(bottleneck, assume={"stride": "1x1"}).network
    assert network.get_submodule("layer2.0.conv1").stride == (2, 2)  # pyright: ignore[reportAttributeAccessIssue]
    assert network.get_submodule("layer2.0.conv2").stride == (1, 1)  # pyright: ignore[reportAttributeAccessIssue]


@torch.inference_mode()
def test_arch_names_one_of_several_that_fit(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnetaa50", num_classes=3, layers=[1, 1, 1, 1]).eval()
    torch.save(network.state_dict(), tmp_path / "aa.pt")
    found = inspected(tmp_path / "aa.pt")
    others = next(a for a in found["assumptions"] if a["name"] == "arch")["others"]
    assert "--arch resnetaa50" in others
    images = torch.randn(2, 3, 64, 64)
    plain = pipeline.load(tmp_path / "aa.pt", device="cpu")
    named = pipeline.load(tmp_path / "aa.pt", arch="resnetaa50", device="cpu")
    assert torch.equal(named.network(images), network(images))
    assert not torch.equal(plain.network(images), network(images))
    assert "architecture from --arch" in named.origin.notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--assume", "padding"], "--assume padding is not NAME=VALUE; for example --assume stride=1x1"),
        (["--assume", "padding=left"], "choose from --assume padding=centred|trailing"),
        (["--assume", "stride=1x1"], "nothing to assume as stride=1x1 for resnet"),
        (["--arch", "resnet50"], "these weights cannot be those of 'resnet50'"),
        (["--weights", "best"], "--weights best is none of auto, model, ema"),
        (["--mean", "0.5,x"], "--mean 0.5,x is no list of numbers"),
        (["--mean", "0.5,0.5,0.5"], "as many as channels (1) are needed; --mean 0.5 --std 0.5"),
        (["--std", "0"], "no preprocessing: the deviations are not all positive"),
        (["--interpolation", "best"], "no preprocessing: unknown interpolation 'best'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(trailing: Path, arguments: list[str], message: str) -> None:
    assert message in refusal(2, "inspect", trailing, *arguments)


def test_the_recipe_can_be_given_and_is_printed_with_every_figure(
    cifar_file: Path, image_folder: Callable[..., Path]
) -> None:
    images = image_folder(size=48)
    given = ["--mean", "0.1,0.2,0.3", "--input-size", 40, "--resize", 44]
    for command in ("evaluate", "analyze"):
        result = run(command, cifar_file, "--data", images, *given, "--json")
        recipe = json.loads(result.stdout)["data"]["preprocessing"]
        assert (recipe["mean"], recipe["height"], recipe["resize"]) == ([0.1, 0.2, 0.3], 40, 44)
        assert recipe["source"].startswith("mean, resize, size given; else")
        assert "mean [0.1, 0.2, 0.3]" in " ".join(
            run(command, cifar_file, "--data", images, *given).stdout.split()
        )


def test_changing_nothing_keeps_the_recipe() -> None:
    recipe = Preprocessing(3, 224, 224, (0.5,) * 3, (0.5,) * 3, resize=256)
    assert recipe.changed() is recipe
    assert recipe.changed(input_size=112).resize == 128


@torch.inference_mode()
def test_where_labels_say_that_an_assumption_is_wrong_the_right_one_is_named(trailing: Path) -> None:
    network = make_chain(ARCHITECTURES["cifar option A, trailing"]).network
    batches = [(images := torch.randn(64, 1, 32, 32), network(images).argmax(1)) for _ in range(5)]
    wrong = pipeline.load(trailing, device="cpu")
    first = doubt.remedies(wrong, batches)[0]
    assert (first.flags, first.accuracy, first.samples) == ("--assume padding=trailing", 1.0, doubt.IMAGES)
    assert first.before < 0.5
    right = pipeline.load(trailing, assume={"padding": "trailing"}, device="cpu")
    assert doubt.remedies(right, batches) == ()
    assert doubt.remedies(wrong, [(batches[0][0], None)]) == ()


@torch.inference_mode()
def test_two_wrong_assumptions_are_found_together(tmp_path: Path) -> None:
    network: Any = torchvision.models.resnet18(num_classes=10).eval()
    network.conv1.stride, network.maxpool = (1, 1), nn.Identity()  # as people edit it for small images
    randomise(network, seed=0)
    images = torch.randn(64, 3, 32, 32)
    network.fc.bias -= network(images).mean(0)  # else one class has nearly all images
    torch.save(network.state_dict(), tmp_path / "edited.pt")
    chain = pipeline.load(tmp_path / "edited.pt", input_size=32, device="cpu")
    first = doubt.remedies(chain, [(images, network(images).argmax(1))])[0]
    assert (first.flags, first.accuracy) == ("--assume stem_stride=1 --assume pool=none", 1.0)


@needs_shared(RESNET20)
@needs_shared(CIFAR)
def test_a_trained_network_opened_wrongly_gets_the_advice() -> None:
    data = ["--data", CIFAR, "--samples", 64]
    wrong = run("evaluate", RESNET20, "--assume", "padding=trailing", *data)
    assert wrong.exit_code == 0
    assert "with --assume padding=centred. Run the command again with that." in wrong.stderr
    assert run("evaluate", RESNET20, *data).stderr == ""
    scaled = json.loads(run("evaluate", RESNET20, "--std", "0.002,0.002,0.002", *data, "--json").stdout)
    assert scaled["remedies"][0]["flags"].startswith("--mean ")
    assert scaled["remedies"][0]["accuracy"] > 0.8


def test_images_of_one_colour_are_no_evidence(trailing: Path, tmp_path: Path) -> None:
    for label in range(10):
        (tmp_path / "flat" / str(label)).mkdir(parents=True)
        Image.new("L", (32, 32), 128).save(tmp_path / "flat" / str(label) / "a.png")
    result = run("evaluate", trailing, "--data", tmp_path / "flat")
    assert result.exit_code == 0
    assert result.stderr == ""


def test_a_folder_that_says_what_it_holds_takes_no_assumption(cifar_file: Path, tmp_path: Path) -> None:
    assert run("prune", cifar_file, "--depth", 3, "--out", tmp_path / "out").exit_code == 0
    with pytest.raises(UsageError, match="the folder says what it holds"):
        pipeline.load(tmp_path / "out", assume={"padding": "trailing"})


def test_metadata_that_the_weights_contradict_is_told_and_not_believed(tmp_path: Path) -> None:
    weights = make_chain(ARCHITECTURES["cifar option B"]).network.state_dict()
    torch.save({"arch": "resnet50", "state_dict": weights}, tmp_path / "net.pt")
    found = inspected(tmp_path / "net.pt")
    assert found["checkpoint"]["family"] == "cifar-resnet"
    assert "arch of the checkpoint names resnet50, which the weights do not fit" in found["notes"]


def test_what_is_far_off_is_given_up_early() -> None:
    images, labels, seen = torch.zeros(64, 3, 4, 4), torch.arange(64) % 4, list[int]()

    def right_every(period: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def network(few: torch.Tensor) -> torch.Tensor:
            numbers = torch.arange(sum(seen), sum(seen) + len(few))
            seen.append(len(few))
            hit = numbers % period == 0
            return nn.functional.one_hot(torch.where(hit, labels[numbers], labels[numbers] + 1), 5).float()

        return network

    def found(period: int, wanted: float) -> tuple[float, int]:
        seen.clear()
        return doubt._accuracy(right_every(period), images, labels, torch.device("cpu"), wanted), sum(seen)  # pyright: ignore

    assert found(8, 0.5) == (1 / 8, doubt.SCREENED)
    assert found(8, 0.25) == (1 / 8, doubt.SCREENED)  # as good as before, where twice as good is wanted
    assert found(8, 0.17) == (1 / 8, 64)  # not far from what is wanted: it may still come
    assert found(8, 0.0) == (1 / 8, 64)
    assert found(1, 0.5) == (1.0, 64)


def test_classes_come_mixed() -> None:
    batches = [(torch.full((100, 3, 2, 2), float(label)), torch.full((100,), label)) for label in range(3)]
    images, labels = doubt._few(batches)
    assert labels is not None
    assert torch.equal(images[:, 0, 0, 0].long(), labels)
    assert len(labels) == doubt.IMAGES
    assert labels[: doubt.SCREENED].unique().tolist() == [0, 1, 2]
