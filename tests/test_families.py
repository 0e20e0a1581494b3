"""Every family: names and shapes tell the architecture, the split is the network, damage is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from commands import run
from conftest import ARCHITECTURES, make_chain
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from resprune import families
from resprune.chain import ResidualChain
from resprune.checkpoint import Checkpoint
from resprune.checks import check_split
from resprune.errors import ArchitectureError
from resprune.opening import open_chain
from resprune.records import Architecture, Origin

TORCHVISION = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
    "resnext101_64x4d": (3, 4, 23, 3),
    "wide_resnet50_2": (3, 4, 6, 3),
    "wide_resnet101_2": (3, 4, 23, 3),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_names_are_recognised_from_shapes_alone(name: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, num_classes=11)
    found = families.recognise(network.state_dict())
    assert found is not None
    assert (found.name, found.options["classes"]) == (name, 11)
    assert tuple(map(len, found.stages)) == TORCHVISION[name]
    rebuilt = families.build(found)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "wide_resnet50_2"])
@torch.inference_mode()
def test_a_torchvision_checkpoint_gives_torchvision_s_logits(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name).eval()
    chain = open_chain(Checkpoint(dict(network.state_dict()), Origin(name, "", "")))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(chain(images), network(images))


def same(found: Architecture | None, expected: Architecture) -> bool:
    return found is not None and (found.family, found.stages, found.options) == (
        expected.family,
        expected.stages,
        expected.options,
    )


ASSUMED_OTHERWISE = {"preact strided stem", "torchvision version 1", "cifar option A, trailing"}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in ASSUMED_OTHERWISE])
def test_recognised_from_names_and_shapes(name: str) -> None:
    weights = make_chain(ARCHITECTURES[name]).network.state_dict()
    assert same(families.recognise(weights), ARCHITECTURES[name])


def test_every_family_is_in_the_test_matrix() -> None:
    assert {a.family for a in ARCHITECTURES.values()} == {family.name for family in families.FAMILIES}


def test_architectures_round_trip_through_json() -> None:
    for architecture in ARCHITECTURES.values():
        assert Architecture.from_json(architecture.to_json()) == architecture


@torch.inference_mode()
def test_the_chain_is_the_network(chain: ResidualChain, images: Tensor) -> None:
    assert torch.equal(chain(images), chain.network(images))
    check_split(chain)


def _one_percent_more(module: torch.nn.Module, args: object, output: Tensor) -> Tensor:
    return 1.01 * output


@torch.inference_mode()
def test_a_block_that_is_no_sum_is_refused_by_name(chain: ResidualChain) -> None:
    victim = chain.blocks[2]
    handle = victim.part.module.register_forward_hook(_one_percent_more)
    with pytest.raises(ArchitectureError, match=victim.path):
        check_split(chain)
    handle.remove()


def test_cost_of_the_blocks_adds_up(chain: ResidualChain) -> None:
    macs, parameters = map(sum, zip(*chain.costs, strict=True))
    assert 0 < macs < chain.summary.macs
    assert 0 < parameters < chain.summary.parameters


def test_macs_are_those_of_a_whole_pass(chain: ResidualChain, images: Tensor) -> None:
    with FlopCounterMode(display=False) as counter:
        chain.network(images[:1])
    assert chain.summary.macs == counter.get_total_flops() // 2


def test_macs_of_resnet50_are_the_published_ones() -> None:
    # Published: 4.09 billion multiply-accumulates, 25.6 million parameters.
    with torch.device("meta"):
        weights = torchvision.models.resnet50().state_dict()
    summary = open_chain(Checkpoint(dict(weights), Origin("resnet50", "", ""))).summary
    assert summary.macs == pytest.approx(4.09e9, rel=1e-3)
    assert summary.parameters == 25_557_032


@pytest.mark.parametrize(
    "keys",
    [
        {"features.0.weight": (64, 3, 3, 3)},
        {"conv1.weight": (16, 3, 3, 3), "layer1.0.attention.weight": (3, 3)},
        {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 3, 3), "fc.weight": (10, 64)},
        {"layer1.0.conv1.weight": (8, 8, 3, 3), "layer1.2.conv1.weight": (8, 8, 3, 3)},
    ],
)
def test_other_networks_are_not_recognised(keys: dict[str, tuple[int, ...]]) -> None:
    assert families.recognise({key: torch.zeros(shape) for key, shape in keys.items()}) is None


def test_the_documented_table_is_what_the_command_prints() -> None:
    document = (Path(__file__).parents[1] / "docs" / "families.md").read_text(encoding="utf-8")
    table = document.partition("<!-- families -->\n")[2].partition("<!-- /families -->")[0]
    assert table == run("families", "--markdown").stdout
    shown = run("families").stdout
    assert "torchvision RegNet" in shown
    assert "refused: a block has no skip connection" in " ".join(shown.split())


REFUSED = {
    "convnext_tiny": "ConvNeXt",
    "nfnet_f0": "NFNet",
    "nf_resnet50": "NFNet",
    "densenet121": "DenseNet",
    "cspresnet50": "cross-stage",
    "dpn68": "dual-path",
    "vgg11": "VGG",
    "repvgg_a0": "RepVGG",
    "mobilenetv2_100": "inverted residual",
    "vit_tiny_patch16_224": "transformer",
    "inception_v3": "Inception",
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_cannot_be_read_are_refused_with_the_reason(name: str) -> None:
    with torch.device("meta"):
        weights = timm.create_model(name).state_dict()
    with pytest.raises(ArchitectureError, match=rf"{name}: this is .*{REFUSED[name]}.*: ..."):
        open_chain(Checkpoint(dict(weights), Origin(name, "", "")))


def test_a_network_without_a_classifier_is_refused() -> None:
    with torch.device("meta"):
        weights = timm.create_model("resnet18", num_classes=0).state_dict()
    with pytest.raises(ArchitectureError, match="without a classifier: exits need one"):
        open_chain(Checkpoint(dict(weights), Origin("test", "", "")))
