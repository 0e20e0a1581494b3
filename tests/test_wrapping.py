"""Modules of the user's own: the documentation's example, and the oracles of every chain."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_images
from own import RECIPE, BuiltFamily, OwnFamily, own, removing
from test_exits import loop
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

import resprune
from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError, UsageError
from resprune.exits import SkipChainExits
from resprune.families.torchvision_resnet import TorchvisionResNet
from resprune.stage_cost import check_vanishing, zero_branches
from resprune.surgery import remove_blocks, skip_blocks

DOCUMENT = Path(__file__).parents[1] / "docs" / "adapters.md"


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


class Hidden(nn.Module):
    """A layer of the user's own: its representation tells nothing of its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(width, 6, 3, 3) / 10)
        self.second = nn.Parameter(torch.randn(6, width, 3, 3) / 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.first, padding=1).relu(), self.second, padding=1)


def test_macs_are_those_of_every_block() -> None:
    network = own()
    network.body[0].conv, network.body[1].conv = Hidden(4), Hidden(64)
    chain = resprune.wrap(network.eval(), OwnFamily(), preprocessing=RECIPE)
    assert [macs for macs, _ in chain.costs[:2]] == [32 * 32 * 2 * 6 * width * 9 for width in (4, 64)]


class Pool(nn.Module):
    """Has a stride that neither `repr` nor a parameter tells."""

    def __init__(self, conv: nn.Module, stride: int) -> None:
        super().__init__()
        self.conv, self.stride = conv, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(F.avg_pool2d(x, self.stride)), scale_factor=float(self.stride))


def test_macs_of_blocks_that_look_alike_are_their_own() -> None:
    network = own()
    network.body[0].conv, network.body[1].conv = (Pool(nn.Conv2d(6, 6, 3, padding=1), s) for s in (1, 2))
    chain = resprune.wrap(network.eval(), OwnFamily(), preprocessing=RECIPE)
    assert [macs for macs, _ in chain.costs[:2]] == [size * size * 6 * 6 * 9 for size in (32, 16)]


TAKES_A_CHAIN: dict[str, Callable[[ResidualChain, Path], object]] = {
    "analyze": resprune.analyze,
    "bench": lambda chain, data: resprune.bench(chain, rounds=1),
    "choose_for": lambda chain, data: resprune.choose_for(chain, data, resprune.Budget(macs=0.9)),
    "check": lambda chain, data: resprune.check(chain, resprune.Limits(min_accuracy=1.0), data=data),
    "compare": lambda chain, data: resprune.compare(chain, chain),
    "evaluate": resprune.evaluate,
    "export": lambda chain, data: resprune.export(chain, data / "x.pt2", format="torch-export"),
    "frontier": resprune.frontier,
    "prune": lambda chain, data: resprune.prune(chain, removing(5, 1)),
}


@pytest.mark.parametrize("name", TAKES_A_CHAIN)
def test_a_network_in_training_mode_is_refused_and_left_as_it_is(
    name: str, image_folder: Callable[..., Path]
) -> None:
    network, data = own(), image_folder(classes=4, each=6)
    chain = resprune.wrap(network, OwnFamily(), preprocessing=RECIPE)
    network.body[1].train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=r"body\.1 is in training mode; call network\.eval\(\) first"):
        TAKES_A_CHAIN[name](chain, data)
    after = network.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_a_branch_may_have_nothing_that_multiplies(image_folder: Callable[..., Path]) -> None:
    network = own()
    network.body[1].conv = nn.AvgPool2d(3, 1, 1)
    chain = resprune.wrap(network.eval(), OwnFamily(), preprocessing=RECIPE)
    data = image_folder(classes=4, each=6)
    assert sorted(resprune.frontier(chain, data).order) == list(range(5))
    assert resprune.choose_for(chain, data, resprune.Budget(macs=0.9)).plan.removed != (1,)


def test_a_norm_that_gives_something_of_zeros_cannot_vanish() -> None:
    network = own()
    network.body[2].norm = nn.BatchNorm2d(9, affine=False)
    chain = resprune.wrap(network.eval(), OwnFamily(), preprocessing=RECIPE)
    with torch.no_grad():
        for parameter in chain.blocks[2].branch.parameters():
            parameter.zero_()
    assert zero_branches(chain) == ()
    with pytest.raises(ArchitectureError, match="could be set to zero"):
        check_vanishing(chain)


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
