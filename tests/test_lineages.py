"""Every variant against its original's forward pass; who recognises what, and under which name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from conftest import ARCHITECTURES, make_chain, make_images
from originals import ORIGINALS, State
from torch import Tensor, nn
from torchvision.models import regnet

from resprune import families
from resprune.checkpoint import Checkpoint
from resprune.errors import ArchitectureError
from resprune.opening import open_chain
from resprune.records import Architecture, Claim, Origin, Wish
from resprune.selection import select
from resprune.surgery import remove_blocks


def weights_of(name: str) -> dict[str, Tensor]:
    return dict(make_chain(ARCHITECTURES[name]).network.state_dict())


@pytest.mark.parametrize("name", ORIGINALS)
@torch.inference_mode()
def test_the_logits_are_the_original_s(name: str) -> None:
    forward, assume = ORIGINALS[name]
    state, images = State(weights_of(name)), make_images(make_chain(ARCHITECTURES[name]), 3)
    checkpoint = Checkpoint(state.weights, Origin(name, "", ""))
    chain = open_chain(checkpoint, wish=Wish(assume=assume))
    torch.testing.assert_close(chain(images), forward(state, images), rtol=1e-5, atol=1e-5)
    left = {key for key in state.weights if not key.endswith("num_batches_tracked")} - state.used
    assert not left
    given = {assumption.name: assumption.value for assumption in chain.origin.assumptions if assumption.given}
    assert given == assume
    if assume:
        assert not torch.allclose(open_chain(checkpoint)(images), chain(images))


@torch.inference_mode()
def test_a_torchvision_network_edited_for_small_images() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.set_submodule("maxpool", nn.Identity())
    checkpoint = Checkpoint(dict(network.eval().state_dict()), Origin("edited", "", ""))
    images, chain = torch.randn(2, 3, 32, 32), open_chain(checkpoint)
    assert torch.equal(chain(images), network(images))
    assert chain.preprocessing.height == 32
    assert [a.name for a in chain.origin.assumptions] == ["stem_stride", "pool"]
    assert chain.family.timm_config(chain.architecture) is None
    network.conv1.stride, network.maxpool = (2, 2), nn.MaxPool2d(3, 2, 1)
    chain = open_chain(checkpoint, wish=Wish(assume={"stem_stride": "2", "pool": "max"}))
    assert torch.equal(chain(images), network(images))


@pytest.mark.parametrize("name", ["regnet_x_400mf", "regnet_y_400mf"])
@torch.inference_mode()
def test_a_regnet_gives_torchvision_s_logits(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, num_classes=5).eval()
    chain = open_chain(Checkpoint(dict(network.state_dict()), Origin(name, "", "")))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(chain(images), network(images))
    assert chain.architecture.name == name
    assert chain.preprocessing.resize == 256


REGNETS = torchvision.models.list_models(include="regnet_*")


@pytest.mark.parametrize("name", REGNETS)
def test_regnets_are_recognised_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = regnet.RegNet

    def on_meta(*args: object, **options: object) -> nn.Module:
        with torch.device("meta"):
            return stock(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(regnet, "RegNet", on_meta)
    weights = torchvision.models.get_model(name).state_dict()
    found = families.recognise(weights)
    assert found is not None
    assert (found.family, found.name) == ("torchvision-regnet", name)
    rebuilt = families.build(found).state_dict()
    assert {key: tensor.shape for key, tensor in rebuilt.items()} == {k: v.shape for k, v in weights.items()}


@torch.inference_mode()
def test_a_shorter_regnet_is_torchvision_s() -> None:
    chain = make_chain(ARCHITECTURES["torchvision regnet y"])
    shorter = remove_blocks(chain, select(depth=chain.depth - 1, blocks=chain.depth))
    options = shorter.architecture.options
    params = regnet.BlockParams(
        [1, 2, 1, 1], options["widths"], options["group_widths"], [1.0] * 4, [2] * 4, 0.25
    )
    stock = regnet.RegNet(params, num_classes=7, stem_width=8).eval()
    stock.load_state_dict(shorter.network.state_dict())
    images = make_images(chain, 2)
    assert torch.equal(stock(images), shorter.network(images))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_family_alone_recognises_a_network(name: str) -> None:
    weights = families.build(ARCHITECTURES[name]).state_dict()
    answers = [family.name for family in families.FAMILIES if family.recognise(weights) is not None]
    plain = ["timm"] if name.startswith("torchvision") else []  # timm's plain networks have torchvision's names
    assert answers in ([ARCHITECTURES[name].family], [ARCHITECTURES[name].family, *plain])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_damaged_weights_raise_nothing_in_recognition(name: str) -> None:
    weights = dict(families.build(ARCHITECTURES[name]).state_dict())
    for key in weights:
        rest = {other: tensor for other, tensor in weights.items() if other != key}
        families.recognise(rest)
        for shape in [(), (3,), (2, 0)]:
            families.recognise(rest | {key: torch.empty(shape, device="meta")})


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("cifar chenyaofo", "fc.", "linear."),
        ("cifar preact", "linear.", "fc."),
        ("torchvision small stem", "fc.", "classifier."),
        ("cifar open_lth", "blocks.", "layers."),
        ("cifar weiaicunzai", "residual_function.", "residual."),
        ("torchvision regnet x", "stem.0.", "stem.conv."),
        ("cifar option B", "layer1.0.conv2.", "layer1.0.conv2_a."),
    ],
)
def test_names_of_another_origin_are_not_taken(name: str, old: str, new: str) -> None:
    weights = families.build(ARCHITECTURES[name]).state_dict()
    assert families.recognise({key.replace(old, new): tensor for key, tensor in weights.items()}) is None


@pytest.mark.parametrize(
    ("name", "extra"), [("cifar preact", "bn.weight"), ("cifar option B", "layer1.0.shortcut.2.weight")]
)
def test_weights_that_a_network_has_no_place_for_are_refused(name: str, extra: str) -> None:
    weights = weights_of(name) | {extra: torch.ones(3)}
    with pytest.raises(ArchitectureError, match="do not fit"):
        open_chain(Checkpoint(weights, Origin("extra", "", "")))


def test_what_other_libraries_claim() -> None:
    weights = families.build(ARCHITECTURES["torchvision bottleneck"]).state_dict()
    family = families.family_of(ARCHITECTURES["torchvision bottleneck"])
    for stride in ("1x1", "3x3"):
        found = family.by_name(Claim("", "huggingface", {"stride": stride}), weights)
        assert found is not None
        assert found.options["stride"] == stride
    name = found.name if found else ""
    assert family.by_name(Claim(name, "torchvision"), weights) is not None
    assert family.by_name(Claim(name), weights) is not None
    assert family.by_name(Claim(name, "timm"), weights) is None
    basic = families.build(ARCHITECTURES["torchvision basic"]).state_dict()
    found = family.by_name(Claim("", "huggingface", {"stride": "1x1"}), basic)
    assert found is not None
    assert "stride" not in found.options


OLD_OPTIONS = {
    "torchvision-resnet": ("block", "groups", "width_per_group", "classes"),
    "cifar-resnet": ("widths", "in_channels", "classes", "shortcut"),
}


@pytest.mark.parametrize("name", ["torchvision bottleneck", "cifar option A", "cifar option B"])
def test_configs_of_version_0_1_are_read(name: str) -> None:
    now = ARCHITECTURES[name]
    options = {key: now.options[key] for key in OLD_OPTIONS[now.family]}
    old = Architecture.from_json(replace(now, options=options).to_json())
    one, other = families.build(old), families.build(now)
    assert [str(layer) for layer in one.modules()] == [str(layer) for layer in other.modules()]
    family = families.family_of(old)
    assert family.preprocessing(old) == family.preprocessing(now)
    assert family.timm_config(old) == family.timm_config(now)
    family.assumptions(old)


def test_cost_of_a_regnet_is_the_published_one() -> None:
    # torchvision's model card: 0.402 GFLOPS, 4,344,144 parameters.
    network = torchvision.models.regnet_y_400mf()
    summary = open_chain(Checkpoint(dict(network.state_dict()), Origin("regnet", "", ""))).summary
    assert summary.macs == pytest.approx(0.402e9, rel=5e-3)
    assert summary.parameters == 4_344_144


def test_a_flat_sequence_keeps_its_stages_apart() -> None:
    chain = make_chain(ARCHITECTURES["cifar open_lth"])
    assert [block.stage for block in chain.blocks] == [0, 0, 1, 2, 2, 2]
    empty_first = remove_blocks(chain, select(depth=0, blocks=6))
    assert empty_first.architecture.stages == ("", "s", "s")
    assert [part.stage for part in empty_first.parts] == [1, 2]


NAMED = [
    ("akamaster", "basic", [16, 32, 64], (3, 3, 3), 10, "resnet20", 0.229),
    ("akamaster", "basic", [64, 128, 256, 512], (2, 2, 2, 2), 10, "resnet18", 0.2023),
    ("akamaster", "bottleneck", [64, 128, 256, 512], (3, 4, 6, 3), 10, "resnet50", 0.2023),
    ("chenyaofo", "basic", [16, 32, 64], (9, 9, 9), 10, "cifar10_resnet56", 0.2023),
    ("chenyaofo", "basic", [16, 32, 64], (9, 9, 9), 100, "cifar100_resnet56", 0.2673),
    ("open_lth", "basic", [16, 32, 64], (3, 3, 3), 10, "cifar_resnet_20", 0.2023),
    ("open_lth", "basic", [32, 64, 128], (3, 3, 3), 10, "cifar_resnet_20_32", 0.2023),
    ("weiaicunzai", "basic", [64, 128, 256, 512], (3, 4, 6, 3), 100, "resnet34", 0.2673),
    ("preact", "bottleneck", [64, 128, 256, 512], (3, 4, 23, 3), 10, "preactresnet101", 0.2023),
]


@pytest.mark.parametrize("row", NAMED, ids=lambda row: f"{row[0]} {row[5]}")
def test_every_lineage_has_its_names_and_its_recipe(
    row: tuple[str, str, list[int], Any, int, str, float],
) -> None:
    names, block, widths, blocks, classes, name, deviation = row
    options = {"names": names, "block": block, "stem": widths[0], "widths": widths, "in_channels": 3}
    options |= {"classes": classes, "shortcut": "B"}
    family = "cifar-preact" if names == "preact" else "cifar-resnet"
    network = families.build(Architecture(family, "", tuple("b" * count for count in blocks), options))
    found = families.recognise(network.state_dict())
    assert found is not None
    assert (found.family, found.name, tuple(map(len, found.stages))) == (family, name, blocks)
    recipe = families.family_of(found).preprocessing(found)
    assert (recipe.std[0], recipe.height, recipe.resize) == (deviation, 32, None)
    grey = replace(found, options={**found.options, "in_channels": 1})
    assert families.family_of(found).preprocessing(grey).mean == (0.5,)
