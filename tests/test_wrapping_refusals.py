"""Modules and adapters that `resprune.wrap` refuses, and what it says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import make_images, randomise
from own import RECIPE, Own, OwnBlock, OwnFamily, own, removing
from torch import Tensor, nn
from torch.nn import functional as F

import resprune
from resprune.errors import ArchitectureError, UsageError
from resprune.families import Family, Part, Parts, named
from resprune.families.torchvision_resnet import TorchvisionResNet
from resprune.records import Architecture, Preprocessing
from resprune.surgery import remove_blocks


def training(network: Own) -> None:
    network.body[1].train()


def halved(network: Own) -> None:
    network.half()


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (training, {}, r"body\.1 is in training mode; call network\.eval"),
        (halved, {}, r"torch\.float16, expected torch\.float32"),
        (None, {"classes": 5}, "gives 4 logits, not 5"),
    ],
)
def test_modules_that_cannot_be_wrapped(
    change: Callable[[Own], None] | None, options: dict[str, Any], match: str
) -> None:
    network = own()
    if change is not None:
        change(network)
    with pytest.raises(UsageError, match=match):
        resprune.wrap(network, OwnFamily(), preprocessing=RECIPE, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_told_as_such(value: float) -> None:
    network = own()
    with torch.no_grad():
        network.classify.weight[0, 0] = value
    with pytest.raises(
        ArchitectureError, match="logits are not finite, on seeded noise; its weights may be damaged"
    ):
        resprune.wrap(network, OwnFamily(), preprocessing=RECIPE)


class NoBranch(OwnFamily):
    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        part = super().part(path, stage, block)
        return Part(path, stage, block, part.skip, nn.Sequential(part.branch[0]), part.activation)  # type: ignore[index]


class WrongBranch(OwnFamily):
    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        part = super().part(path, stage, block)
        return Part(path, stage, block, part.skip, nn.Sequential(nn.Flatten()), part.activation)


class WrongHead(OwnFamily):
    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        parts = super().split(network, architecture)
        return Parts(parts.stem, parts.blocks, parts.head.append(nn.Softmax(1)))


class Twisted(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return 2 * super().forward(input)


class Sized(nn.Identity):
    """Passes large images on, and not what a stride has left of them, through which it is moved."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input if input.shape[-1] > 16 else 2 * input


class TwistedSkip(OwnFamily):
    twist: nn.Module = Twisted(nn.AvgPool2d(1, divisor_override=2))

    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        part = super().part(path, stage, block)
        if not len(part.skip):
            return part
        skip = named(twist=self.twist, **dict(part.skip.named_children()))
        return Part(path, stage, block, skip, part.branch, part.activation)


class SizedSkip(TwistedSkip):
    twist = Sized()


class Elsewhere(OwnFamily):
    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        parts = super().split(network, architecture)
        return Parts(parts.stem, parts.blocks[1:], parts.head)


class Backwards(OwnFamily):
    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        return super().part(path, 4 - int(path[-1]), block)


class Nameless(OwnFamily):
    name = ""


class Impostor(OwnFamily):
    name = "preact"


class Misbuilt(OwnFamily):
    def build(self, architecture: Architecture) -> nn.Module:
        return Own(positive=False)


@pytest.mark.parametrize(
    ("family", "match"),
    [
        (NoBranch(), r"body\.0: the block is not activation\(skip \+ branch\)"),
        (WrongBranch(), r"body\.0: its skip and branch cannot be run and added"),
        (WrongHead(), "logits differ from those of stem, blocks and head"),
        (SizedSkip(), "of a class derived from one of torch's must do what that one does"),
        (Elsewhere(), "are not all the children, in turn, of an nn.Sequential"),
        (Backwards(), "split numbers its stages"),
        (Nameless(), "no name, or one of resprune's own: ''"),
        (Impostor(), "no name, or one of resprune's own: 'preact'"),
        (Misbuilt(), "build gives a network that computes something else"),
        (TorchvisionResNet(), "split of the family 'torchvision-resnet' failed"),
    ],
)
def test_adapters_that_are_wrong_are_refused(family: Family, match: str) -> None:
    with pytest.raises(resprune.ResPruneError, match=match):
        resprune.wrap(own(), family, preprocessing=RECIPE)


def test_a_sequential_with_a_forward_of_its_own_is_run_as_a_whole() -> None:
    chain = resprune.wrap(own(), TwistedSkip(), preprocessing=RECIPE)  # which compares the exits with the steps
    assert chain.depth == 5


class KeepingRelu(OwnFamily):
    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        part = super().part(path, stage, block)
        skip = part.skip if len(part.skip) else named(identity=nn.Identity())
        return Part(path, stage, block, skip, part.branch, part.activation)


@torch.inference_mode()
def test_a_relu_that_its_input_does_not_pass_unchanged_stays() -> None:
    network = own(positive=False)
    with pytest.raises(
        ArchitectureError, match=r"body\.0: the block's input.*named\(identity=nn\.Identity\(\)\)"
    ):
        resprune.wrap(network, OwnFamily(), preprocessing=RECIPE)
    chain = resprune.wrap(network, KeepingRelu(), preprocessing=RECIPE)
    images = make_images(chain, 3)
    sub = remove_blocks(chain, removing(5, 0, 1))
    expected = network.stem(images).relu()
    for block in network.body[2:]:
        expected = block(expected)
    torch.testing.assert_close(sub.network(images), network.classify(expected.mean((2, 3))))


class InPlace(OwnBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu_(x - 0.1) if self.project else x.mul_(0.5))


class Counting(Own):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for position in range(5):
            x = self.body[position](x)
        return self.classify(x.mean((2, 3)))


class Doubling(Own):
    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x)).mean((2, 3))
        return self.classify(x) * (5 / len(self.body))


@pytest.mark.parametrize("kind", [Counting, Doubling])
def test_a_network_that_counts_its_blocks_is_refused_when_they_go(kind: type[Own]) -> None:
    network = kind().eval()
    randomise(network, 0)
    chain = resprune.wrap(network, OwnFamily(), preprocessing=RECIPE)
    with pytest.raises(ArchitectureError, match="forward runs the blocks of its stages in turn"):
        resprune.prune(chain, removing(5, 1))


def test_a_block_that_changes_its_input_is_refused() -> None:
    network = own()
    network.body[1] = InPlace(6, 6, nn.ReLU).eval()
    with pytest.raises(ArchitectureError, match=r"body\.1: the block changes its input in place"):
        resprune.wrap(network, OwnFamily(), preprocessing=RECIPE)


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="expected input"):
        resprune.wrap(own(), OwnFamily(), preprocessing=Preprocessing(1, 32, 32, (0.5,), (0.5,)))
    with pytest.raises(ArchitectureError, match="no preprocessing is known for the family 'own'"):
        resprune.wrap(own(), OwnFamily())
