"""`assert_equivalent`: what passes, what fails with which figures, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from test_memory import Session
from torch import Tensor, nn

from resprune import comparing
from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError, UsageError
from resprune.records import Origin
from resprune.running import OnnxNetwork
from resprune.testing import assert_equivalent

CHAIN = make_chain(ARCHITECTURES["cifar option B"])
SHAPE = (CHAIN.preprocessing.channels, CHAIN.preprocessing.height, CHAIN.preprocessing.width)
ONNX = OnnxNetwork(Origin("net.onnx", "0" * 64, "ONNX"), Session(CHAIN, 64), None, SHAPE, CHAIN.classes)
OTHER = make_chain(ARCHITECTURES["cifar option B"], seed=1)


class Answers(nn.Module):
    """Says of image i what a list says; images hold their number."""

    def __init__(self, answers: list[int]) -> None:
        super().__init__()
        self.answers = torch.tensor(answers)

    def forward(self, images: Tensor) -> Tensor:
        return 5.0 * nn.functional.one_hot(self.answers[images[:, 0, 0, 0].long()], 3)


def numbered(count: int, label: int = 0) -> list[tuple[Tensor, Tensor]]:
    images = torch.arange(count).float().view(-1, 1, 1, 1)
    return [(own, torch.full((len(own),), label)) for own in images.split(64)]


def test_networks_that_are_the_same_pass(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    assert_equivalent(cifar_file, cifar_file)
    assert_equivalent(CHAIN, CHAIN.network)
    assert_equivalent(CHAIN.network, CHAIN.network, make_images(CHAIN, 3))
    assert_equivalent(CHAIN, CHAIN.network, image_folder(), max_drop=0, tolerance=0)
    assert_equivalent("demo", "demo", samples=8)


def test_networks_that_differ_fail_with_figures() -> None:
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(CHAIN.network, OTHER.network, make_images(CHAIN, 40), tolerance=1e-3)
    told = str(caught.value)
    assert told.startswith("the networks are not equivalent on 40 inputs\n  logits differ by up to ")
    assert " of the largest; allowed 0.001\n" in told
    assert "same top class on " in told
    assert ", ..." in told.splitlines()[-1]


def test_a_small_change_is_caught_and_can_be_allowed() -> None:
    changed = CHAIN.duplicate()
    with torch.no_grad():
        next(changed.network.parameters()).mul_(1.01)
    with pytest.raises(AssertionError):
        assert_equivalent(CHAIN, changed)
    assert_equivalent(CHAIN, changed, tolerance=0.5)


def test_a_drop_fails_where_it_is_beyond_doubt() -> None:
    right, images = Answers([0] * 400), numbered(400)
    assert_equivalent(right, Answers([1] * 2 + [0] * 398), images, max_drop=0.5)
    assert_equivalent(right, Answers([1] * 4 + [0] * 396), images, max_drop=0.5)  # 1 point: within noise
    with pytest.raises(AssertionError, match=r"drops by 1\.00 points"):
        assert_equivalent(right, Answers([1] * 4 + [0] * 396), images, max_drop=0.5, strict=True)
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(right, Answers([1] * 40 + [0] * 360), images, max_drop=0.5)
    told = str(caught.value)
    assert "accuracy drops by 10.00 points (95 % interval 7.4" in told
    assert "allowed 0.5; 40 of 400 images lost, 0 won" in told
    assert "accuracy 100.00 % and 90.00 %" in told


def test_a_module_in_training_is_measured_in_eval_mode_and_put_back() -> None:
    network = CHAIN.duplicate().network.train()
    frozen = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert_equivalent(CHAIN, network)
    with pytest.raises(AssertionError):
        assert_equivalent(OTHER, network)
    assert network.training
    assert not frozen.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("other", "device"), [("net.onnx", "cpu"), ("net.pth", "auto"), (ONNX, "cpu"), (CHAIN, "auto")]
)
def test_what_is_compared_with_an_onnx_file_is_opened_on_its_device(
    other: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: dict[str, str] = {}

    def opened(source: str, *, device: str) -> ResidualChain:
        devices[source] = device
        return CHAIN

    monkeypatch.setattr(comparing, "open_network", opened)
    for pair in (("best.pth", other), (other, "best.pth")):
        assert_equivalent(*pair, make_images(CHAIN, 2))
        assert devices.pop("best.pth") == device
        assert set(devices.values()) <= {device}


def test_what_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="give the input itself"):
        assert_equivalent(CHAIN.network, CHAIN.network)
    with pytest.raises(UsageError, match="max_drop needs labels"):
        assert_equivalent(CHAIN, CHAIN.network, max_drop=1)
    other = make_chain(ARCHITECTURES["torchvision basic"])
    with pytest.raises(ArchitectureError, match=r"\(2, 10\) and \(2, 7\)"):
        assert_equivalent(CHAIN.network, other.network, make_images(CHAIN, 2))
