"""The paper's networks from scratch: their sizes, their shapes, their first weights, their names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

import resprune
from resprune import families
from resprune.chain import ResidualChain
from resprune.checks import check_network, check_preprocessing, check_split
from resprune.errors import UsageError
from resprune.exporting.folder import write_network
from resprune.families import preact
from resprune.fresh import fresh, initialise, is_name
from resprune.records import Architecture, Survey
from resprune.selection import select
from resprune.surgery import remove_blocks

CIFAR10 = Survey("cifar10", "train", 50_000, 10, 3, 32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 10_000)
CIFAR100 = Survey("cifar100", "train", 50_000, 100, 3, 32, 32, (0.51, 0.49, 0.44), (0.27, 0.26, 0.28), 10_000)
MNIST = Survey("mnist", "train", 60_000, 10, 1, 28, 28, (0.13,), (0.31,), 10_000)


def millions(chain: ResidualChain) -> float:
    return sum(parameter.numel() for parameter in chain.network.parameters()) / 1e6


def pruned(chain: ResidualChain, depth: int) -> ResidualChain:
    return remove_blocks(chain, select(depth=depth, blocks=chain.depth))


@pytest.mark.parametrize(
    ("name", "data", "whole", "first_12"),
    [
        ("paper-homogeneous-54", MNIST, "1.0", "0.2"),
        ("paper-homogeneous-54", CIFAR10, "4.0", "0.9"),
        ("paper-homogeneous-54", CIFAR100, "4.0", "0.9"),
        ("paper-standard-54", CIFAR10, "1.7", "0.06"),
    ],
)
def test_parameters_are_those_of_table_1(name: str, data: Survey, whole: str, first_12: str) -> None:
    chain = fresh(name, data, seed=0)
    assert chain.depth == 54
    assert f"{millions(chain):.1f}" == whole
    assert f"{millions(pruned(chain, 12)):.{len(first_12) - 2}f}" == first_12


def test_a_small_homogeneous_network_is_the_pruned_one_s_size() -> None:
    small, large = (
        fresh("paper-homogeneous-12", CIFAR10, seed=0),
        fresh("paper-homogeneous-54", CIFAR10, seed=0),
    )
    assert millions(small) == millions(pruned(large, 12))


@pytest.mark.parametrize(
    ("name", "data", "shapes"),
    [
        ("paper-homogeneous-2", CIFAR10, [(64, 32, 32)] * 3),
        ("paper-homogeneous-1", MNIST, [(32, 28, 28)] * 2),
        ("paper-standard-3", CIFAR100, [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("paper-standard-6", MNIST, [(16, 28, 28)] * 3 + [(32, 14, 14)] * 2 + [(64, 7, 7)] * 2),
    ],
)
@torch.inference_mode()
def test_the_states_have_the_paper_s_shapes(name: str, data: Survey, shapes: list[tuple[int, ...]]) -> None:
    chain = fresh(name, data, seed=0)
    images = torch.randn(2, data.channels, data.height, data.width, generator=torch.Generator().manual_seed(0))
    x = chain.stem(images)
    assert (x >= 0).all()  # norm and ReLU
    states = [x] + [x := block(x) for block in chain.blocks]
    assert [tuple(state.shape[1:]) for state in states] == shapes
    logits = chain(images)
    assert logits.shape == (2, data.classes)
    assert logits.isfinite().all()
    check_split(chain)
    check_preprocessing(chain)
    assert check_network(chain) == data.classes


def test_a_fresh_chain_is_like_any_other() -> None:
    chain = fresh("paper-standard-3", MNIST, seed=0)
    assert not any(module.training for module in chain.network.modules())
    assert not any(parameter.requires_grad for parameter in chain.network.parameters())
    assert {tensor.device.type for tensor in chain.network.state_dict().values()} == {"cpu"}
    assert (chain.origin.path, chain.origin.sha256, chain.origin.format) == (
        "paper-standard-3",
        "",
        "from scratch",
    )
    recipe = chain.preprocessing
    assert (recipe.channels, recipe.height, recipe.width, recipe.resize) == (1, 28, 28, None)
    assert (recipe.mean, recipe.std) == (MNIST.mean, MNIST.std)
    assert recipe.source == "measured on 10,000 training images"
    assert chain.architecture.name == "paper-standard-3"


def test_weights_are_he_s() -> None:
    """Against the formulas, drawn in the order of the network's layers."""
    chain, generator = fresh("paper-standard-3", CIFAR10, seed=5), torch.Generator().manual_seed(5)
    for name, layer in chain.network.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            deviation = math.sqrt(2 / (layer.out_channels * layer.weight[0, 0].numel()))
            expected = deviation * torch.randn(layer.weight.shape, generator=generator)
            torch.testing.assert_close(layer.weight.data, expected, msg=name)
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
            assert layer.running_mean is not None
            assert layer.running_var is not None
            assert (layer.running_mean == 0).all()
            assert (layer.running_var == 1).all()
            assert layer.num_batches_tracked == 0
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(64)
            for parameter in (layer.weight, layer.bias):
                expected = bound * (2 * torch.rand(parameter.shape, generator=generator) - 1)
                torch.testing.assert_close(parameter.data, expected)


def test_weights_are_a_function_of_the_seed() -> None:
    before = torch.get_rng_state()
    first = fresh("paper-standard-6", CIFAR10, seed=1).network.state_dict()
    torch.manual_seed(99)
    again = fresh("paper-standard-6", CIFAR10, seed=1).network.state_dict()
    other = fresh("paper-standard-6", CIFAR10, seed=2).network.state_dict()
    torch.set_rng_state(before)
    fresh("paper-standard-6", CIFAR10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].ndim == 4 or name.startswith("fc.")]
    assert len(drawn) == 1 + 2 * 6 + 2 + 2
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@torch.inference_mode()
def test_a_fresh_network_is_saved_and_loaded(tmp_path: Path) -> None:
    chain = fresh("paper-standard-6", CIFAR10, seed=0)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for number, written in enumerate([chain, pruned(chain, 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_network(written, folder)
        loaded = resprune.load(folder)
        assert torch.equal(loaded(images), written(images))
        assert loaded.architecture == written.architecture
        assert loaded.preprocessing.mean == chain.preprocessing.mean
    assert pruned(chain, 3).architecture.name == "paper-standard-6-sub3"


def test_weights_alone_tell_the_network() -> None:
    for name, data in [("paper-homogeneous-3", MNIST), ("paper-standard-6", CIFAR10)]:
        chain = fresh(name, data, seed=0)
        found = families.recognise(chain.network.state_dict())
        assert found is not None
        assert (found.family, found.stages, found.options) == (
            "preact",
            chain.architecture.stages,
            chain.architecture.options,
        )


def test_four_stages_of_torchvision_s_widths_are_not_torchvision_s() -> None:
    widths = [64, 128, 256, 512]
    wide = preact.architecture("", [1] * 4, widths, in_channels=3, classes=10, stem_norm=True)
    weights = families.build(wide).state_dict()
    answers = [family.name for family in families.FAMILIES if family.recognise(weights) is not None]
    assert answers == ["preact"]


def test_architectures_from_before_the_stem_s_norm_are_built_without_it() -> None:
    options = {"widths": [8], "stem_stride": 1, "in_channels": 1, "classes": 10}
    network = families.build(Architecture("preact", "old", ("bb",), options))
    assert "bn1.weight" not in network.state_dict()


@pytest.mark.parametrize(
    "name", ["paper-homogeneous-54", "paper-standard-54", "paper-homogenous-54", "paper_x"]
)
def test_names_are_told_from_files(name: str) -> None:
    assert is_name(name)
    assert not any(
        is_name(path) for path in (f"./{name}", f"{name}/", f"{name}.pt", f"runs/{name}", "demo", "")
    )


@pytest.mark.parametrize(
    "name",
    [
        *("paper-homogenous-54", "paper-homogeneous-0", "paper-homogeneous", "paper-homogeneous-054"),
        *("paper-standard--3", "Paper-standard-3", "paper-standard-3 ", "paper-homogeneous-5.4"),
    ],
)
def test_misspelt_names_end_in_both_forms(name: str) -> None:
    with pytest.raises(UsageError, match=r"paper-homogeneous-N or paper-standard-N, N >= 1") as caught:
        fresh(name, CIFAR10, seed=0)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(("blocks", "near"), [(55, "54 or paper-standard-57"), (2, "3")])
def test_three_stages_need_a_multiple_of_three(blocks: int, near: str) -> None:
    with pytest.raises(
        UsageError, match=rf"{blocks} blocks cannot be divided by 3; choose paper-standard-{near}$"
    ):
        fresh(f"paper-standard-{blocks}", CIFAR10, seed=0)


class Scale(nn.Module):
    """Knows how it begins: anywhere between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.empty(3))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.factor)


def layers() -> nn.Sequential:
    """Return one layer of each kind that networks have, all of whose numbers were trained: they are 7."""
    kinds = (
        nn.Conv2d(3, 3, 1),
        nn.Conv1d(3, 3, 1),
        nn.GroupNorm(1, 3),
        nn.Linear(3, 3, bias=False),
        nn.Linear(3, 3),
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, affine=False),
        Scale(),
    )
    network = nn.Sequential(*kinds)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(7)
    return network


def test_from_scratch_no_layer_keeps_what_was_trained() -> None:
    networks = [layers() for _ in range(3)]
    before = torch.get_rng_state()
    for network, seed in zip(networks, (0, 0, 1), strict=True):
        initialise(network, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (network.state_dict() for network in networks)
    assert [name for name, tensor in one.items() if bool((tensor == 7).any())] == []
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    drawn = {name for name, tensor in one.items() if not torch.equal(tensor, other[name])}
    assert drawn == {"0.weight", "1.weight", "1.bias", "3.weight", "4.weight", "4.bias", "7.factor"}


def test_a_layer_that_does_not_say_how_it_begins_is_refused() -> None:
    network = layers()
    network[0].gain = nn.Parameter(torch.ones(3))
    before = [tensor.clone() for tensor in network.state_dict().values()]
    with pytest.raises(UsageError, match=r"0\.gain would keep its trained value .* how a Conv2d begins"):
        initialise(network, torch.Generator())
    assert all(torch.equal(was, now) for was, now in zip(before, network.state_dict().values(), strict=True))
    bare = nn.Module()
    bare.gain = nn.Parameter(torch.ones(3))
    with pytest.raises(UsageError, match=r"^gain would keep its trained value .* how a Module begins"):
        initialise(bare, torch.Generator())
