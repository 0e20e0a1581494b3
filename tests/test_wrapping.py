"""Modules of the user's own: the documentation's example, the oracles of every chain, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_images, randomise
from test_exits import loop
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

import resprune
from resprune.errors import ArchitectureError, UsageError
from resprune.exits import SkipChainExits
from resprune.families import Family, Part, Parts, chop, named
from resprune.families.torchvision_resnet import TorchvisionResNet
from resprune.records import Architecture, Preprocessing, PrunePlan
from resprune.surgery import remove_blocks, skip_blocks

DOCUMENT = Path(__file__).parents[1] / "docs" / "families.md"
RECIPE = Preprocessing(3, 32, 32, (0.5,) * 3, (0.5,) * 3)


class Own(nn.Module):
    """Five blocks in a flat `nn.Sequential`, the third with a projection; biases, GELU or ReLU."""

    def __init__(self, act: type[nn.Module] = nn.ReLU, positive: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), act() if positive else nn.Identity())
        widths = [(6, 6), (6, 6), (6, 9), (9, 9), (9, 9)]
        self.body = nn.Sequential(*(OwnBlock(*pair, act) for pair in widths))
        self.classify = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.body(self.stem(x)).mean((2, 3)))


class OwnBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(width_out)
        self.project = nn.Conv2d(width_in, width_out, 1, 2) if width_in != width_out else None
        self.conv.stride = (1, 1) if self.project is None else (2, 2)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.project is None else self.project(x)
        return self.act(self.norm(self.conv(x)) + skip)


class OwnFamily(Family):
    name = "own"

    def split(self, network: nn.Module, architecture: Architecture) -> Parts:
        assert isinstance(network, Own)
        head = named(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classify=network.classify)
        return Parts(network.stem, chop(network, ["body"], self.part), head)

    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        assert isinstance(block, OwnBlock)
        skip = named() if block.project is None else named(project=block.project)
        return Part(path, stage, block, skip, nn.Sequential(block.conv, block.norm), block.act)


class BuiltFamily(OwnFamily):
    def build(self, architecture: Architecture) -> nn.Module:
        return Own()


def own(**options: Any) -> Own:
    network = Own(**options).eval()
    randomise(network, 0)
    return network


def removing(depth: int, *removed: int) -> PrunePlan:
    return PrunePlan("test", removed, tuple(k for k in range(depth) if k not in removed))


def test_the_documentation_s_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "documentation"}
    blocks = re.findall(
        r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, str(DOCUMENT), "exec"), space)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(space["again"].network(images), space["smaller"](images))
    assert space["again"].architecture.stages == ("bbb", "b--")
    assert len(space["network"].deep) == 3
    assert "family=adapter" in Path("mine-pruned", "README.md").read_text()


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU])
@torch.inference_mode()
def test_exits_and_surgery_follow_the_formulas(act: type[nn.Module]) -> None:
    network = own(act=act)
    chain = resprune.wrap(network, OwnFamily(), preprocessing=RECIPE, classes=4, name="fivefold")
    images = make_images(chain, 3)
    assert torch.equal(chain(images), network(images))
    torch.testing.assert_close(SkipChainExits(chain)(images), loop(chain, images), rtol=1e-4, atol=1e-5)
    assert (chain.architecture.name, chain.classes, chain.architecture.stages) == ("fivefold", 4, ("bbbbb",))
    assert [block.part.step_is_trivial for block in chain.blocks].count(False) == (1 if act is nn.ReLU else 5)
    for removed in [(0,), (1, 2), (4,), (0, 1, 2, 3, 4)]:
        sub = remove_blocks(chain, removing(5, *removed))
        expected = skip_blocks(chain, images, removed)
        torch.testing.assert_close(sub.network(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sub(images), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_folders_come_back_also_when_pruned_twice(tmp_path: Path) -> None:
    chain = resprune.wrap(own(), BuiltFamily(), preprocessing=RECIPE)
    images = make_images(chain, 3)
    once = resprune.prune(chain, removing(5, 1, 4))
    assert once.chain.architecture.stages == ("b-bb-",)
    twice = resprune.prune(once.chain, removing(3, 1))
    assert twice.chain.architecture.stages == ("b-sb-",)
    expected = skip_blocks(chain, images, (1, 2, 4))
    for name, pruned in {"once": once, "twice": twice}.items():
        resprune.save(pruned, tmp_path / name)
        back = resprune.load(tmp_path / name, device="cpu", family=BuiltFamily())
        assert torch.equal(back.network(images), pruned.chain.network(images))
        assert back.architecture == pruned.chain.architecture
    torch.testing.assert_close(twice.chain.network(images), expected, rtol=1e-4, atol=1e-5)
    again = resprune.prune(resprune.load(tmp_path / "once", device="cpu", family=BuiltFamily()), removing(3, 1))
    assert torch.equal(again.chain.network(images), twice.chain.network(images))


def traces(network: nn.Module) -> list[Any]:
    tensors = [(name, id(t), t.clone()) for name, t in network.state_dict(keep_vars=True).items()]
    modules = [(path, id(m), m.training, dict(m._forward_hooks)) for path, m in network.named_modules()]
    return [tensors, modules, [p.requires_grad for p in network.parameters()]]


def test_the_module_is_left_as_it_was(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    network = own()
    before = traces(network)
    chain = resprune.wrap(network, OwnFamily(), preprocessing=RECIPE)
    resprune.analyze(chain, image_folder(classes=4))
    pruned = resprune.prune(chain, removing(5, 3))
    resprune.save(pruned, tmp_path / "out")
    with torch.no_grad():
        for parameter in pruned.chain.network.parameters():
            parameter.zero_()
    after = traces(network)
    assert before[1:] == after[1:]
    for (name, old, value), (other, new, now) in zip(before[0], after[0], strict=True):
        assert (name, old) == (other, new)
        assert torch.equal(value, now)


def test_reading_back_needs_the_adapter_with_build(tmp_path: Path) -> None:
    chain = resprune.wrap(own(), OwnFamily(), preprocessing=RECIPE)
    resprune.save(resprune.prune(chain, removing(5, 4)), tmp_path / "out")
    with pytest.raises(ArchitectureError, match=r"unknown family 'own'.*family=\.\.\."):
        resprune.load(tmp_path / "out")
    with pytest.raises(ArchitectureError, match="'own' has no build; give the adapter a method build"):
        resprune.load(tmp_path / "out", family=OwnFamily())
    with pytest.raises(UsageError, match="of the family 'own', not 'torchvision-resnet'"):
        resprune.load(tmp_path / "out", family=TorchvisionResNet())


@torch.inference_mode()
def test_torchvision_s_modules_are_taken_from_memory_with_the_stride_they_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResNet(Bottleneck, [1, 2, 1, 1], num_classes=3).eval()
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    chain = resprune.wrap(network, TorchvisionResNet(), preprocessing=RECIPE)
    assert chain.architecture.options["stride"] == "1x1"
    pruned = resprune.prune(chain, removing(5, 2))
    resprune.save(pruned, tmp_path / "out")
    back, images = resprune.load(tmp_path / "out", device="cpu"), make_images(chain, 2)
    assert torch.equal(back.network(images), pruned.chain.network(images))
    assert back.architecture.stages == ("b", "b", "b", "b")


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


class TwistedSkip(OwnFamily):
    def part(self, path: str, stage: int, block: nn.Module) -> Part:
        part = super().part(path, stage, block)
        twist = Twisted(nn.AvgPool2d(1, divisor_override=2))
        return Part(
            path,
            stage,
            block,
            named(twist=twist, **dict(part.skip.named_children())),
            part.branch,
            part.activation,
        )


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
        (TwistedSkip(), "an nn.Sequential in skip or head must have no forward of its own"),
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
