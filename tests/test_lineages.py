"""Every variant against its original's forward pass, written out over the state dict by its names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torchvision
from conftest import ARCHITECTURES, make_chain, make_images
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import regnet

from resprune import families
from resprune.checkpoint import Checkpoint
from resprune.errors import ArchitectureError
from resprune.opening import open_chain
from resprune.records import Architecture, Claim, Origin, Wish
from resprune.selection import select
from resprune.surgery import remove_blocks


class State:
    """A state dict that remembers which of its tensors were used."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.used = weights, set[str]()

    def __contains__(self, key: str) -> bool:
        return key in self.weights

    def __getitem__(self, key: str) -> Tensor:
        self.used.add(key)
        return self.weights[key]

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, groups=x.shape[1] // weight.shape[1])

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, var = self[f"{name}.running_mean"], self[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, self[f"{name}.weight"], self[f"{name}.bias"])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x.mean((2, 3)), self[f"{name}.weight"], self[f"{name}.bias"])


def torchvision_v1(state: State, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(state.norm("bn1", state.conv("conv1", x, 2))), 3, 2, 1)
    for stage in range(1, 5):
        position = 0
        while f"layer{stage}.{position}.conv1.weight" in state:
            block, stride = f"layer{stage}.{position}", 2 if stage > 1 and position == 0 else 1
            out = F.relu(state.norm(f"{block}.bn1", state.conv(f"{block}.conv1", x, stride)))
            out = F.relu(state.norm(f"{block}.bn2", state.conv(f"{block}.conv2", out)))
            out = state.norm(f"{block}.bn3", state.conv(f"{block}.conv3", out))
            if position == 0:
                x = state.norm(f"{block}.downsample.1", state.conv(f"{block}.downsample.0", x, stride))
            x, position = F.relu(out + x), position + 1
    return state.linear("fc", x)


def option_a(before: Callable[[int], int]) -> Callable[[State, Tensor], Tensor]:
    def forward(state: State, x: Tensor) -> Tensor:
        x = F.relu(state.norm("bn1", state.conv("conv1", x)))
        for stage in range(1, 4):
            position = 0
            while f"layer{stage}.{position}.conv1.weight" in state:
                block, stride = f"layer{stage}.{position}", 2 if stage > 1 and position == 0 else 1
                out = F.relu(state.norm(f"{block}.bn1", state.conv(f"{block}.conv1", x, stride)))
                out = state.norm(f"{block}.bn2", state.conv(f"{block}.conv2", out))
                if stride == 2:
                    extra = out.shape[1] - x.shape[1]
                    zeros = torch.zeros(len(x), extra, *out.shape[2:])
                    first = before(extra)
                    x = torch.cat([zeros[:, :first], x[:, :, ::2, ::2], zeros[:, first:]], 1)
                x, position = F.relu(out + x), position + 1
        return state.linear("linear", x)

    return forward


def numbered(shortcut: str, head: str, convolutions: int) -> Callable[[State, Tensor], Tensor]:
    """Return kuangliu's forward pass, and with other names chenyaofo's."""

    def forward(state: State, x: Tensor) -> Tensor:
        x = F.relu(state.norm("bn1", state.conv("conv1", x)))
        stages = [key.split(".")[0] for key in state.weights if key.endswith(".0.conv1.weight")]
        for stage in stages:
            for position in range(9):
                block, stride = f"{stage}.{position}", 2 if stage != "layer1" and position == 0 else 1
                if f"{block}.conv1.weight" not in state:
                    break
                out = x
                for k in range(1, convolutions + 1):
                    step = stride if k == convolutions - 1 else 1
                    out = state.norm(f"{block}.bn{k}", state.conv(f"{block}.conv{k}", out, step))
                    out = F.relu(out) if k < convolutions else out
                if f"{block}.{shortcut}.0.weight" in state:
                    x = state.norm(f"{block}.{shortcut}.1", state.conv(f"{block}.{shortcut}.0", x, stride))
                x = F.relu(out + x)
        return state.linear(head, x)

    return forward


def open_lth(state: State, x: Tensor) -> Tensor:
    x = F.relu(state.norm("bn", state.conv("conv", x)))
    position = 0
    while f"blocks.{position}.conv1.weight" in state:
        block = f"blocks.{position}"
        stride = 2 if f"{block}.shortcut.0.weight" in state else 1
        out = F.relu(state.norm(f"{block}.bn1", state.conv(f"{block}.conv1", x, stride)))
        out = state.norm(f"{block}.bn2", state.conv(f"{block}.conv2", out))
        if stride == 2:
            x = state.norm(f"{block}.shortcut.1", state.conv(f"{block}.shortcut.0", x, 2))
        x, position = F.relu(out + x), position + 1
    return state.linear("fc", x)


def weiaicunzai(state: State, x: Tensor) -> Tensor:
    x = F.relu(state.norm("conv1.1", state.conv("conv1.0", x)))
    for stage in range(2, 6):
        position = 0
        while f"conv{stage}_x.{position}.residual_function.0.weight" in state:
            block, stride = f"conv{stage}_x.{position}", 2 if stage > 2 and position == 0 else 1
            out = x
            for k, step in ((0, 1), (3, stride), (6, 1)):
                out = state.conv(f"{block}.residual_function.{k}", out, step)
                out = state.norm(f"{block}.residual_function.{k + 1}", out)
                out = F.relu(out) if k < 6 else out
            if position == 0:
                x = state.norm(f"{block}.shortcut.1", state.conv(f"{block}.shortcut.0", x, stride))
            x, position = F.relu(out + x), position + 1
    return state.linear("fc", x)


def kuangliu_preact(state: State, x: Tensor) -> Tensor:
    x = state.conv("conv1", x)
    blocks = [key.removesuffix(".bn1.weight") for key in state.weights if key.endswith(".bn1.weight")]
    for block in blocks:
        stride = 2 if block.endswith(".0") and block != "layer1.0" else 1
        out = F.relu(state.norm(f"{block}.bn1", x))
        if f"{block}.shortcut.0.weight" in state:
            x = state.conv(f"{block}.shortcut.0", out, stride)
        if f"{block}.conv3.weight" in state:
            out = F.relu(state.norm(f"{block}.bn2", state.conv(f"{block}.conv1", out)))
            out = F.relu(state.norm(f"{block}.bn3", state.conv(f"{block}.conv2", out, stride)))
            x = state.conv(f"{block}.conv3", out) + x
        else:
            out = F.relu(state.norm(f"{block}.bn2", state.conv(f"{block}.conv1", out, stride)))
            x = state.conv(f"{block}.conv2", out) + x
    return state.linear("linear", x)


ORIGINALS: dict[str, tuple[Callable[[State, Tensor], Tensor], dict[str, str]]] = {
    "torchvision version 1": (torchvision_v1, {"stride": "1x1"}),
    "cifar option A": (option_a(lambda extra: extra // 2), {}),
    "cifar option A, trailing": (option_a(lambda extra: 0), {"padding": "trailing"}),
    "cifar option B": (numbered("shortcut", "linear", 2), {}),
    "cifar bottleneck": (numbered("shortcut", "linear", 3), {}),
    "cifar chenyaofo": (numbered("downsample", "fc", 2), {}),
    "cifar open_lth": (open_lth, {}),
    "cifar weiaicunzai": (weiaicunzai, {}),
    "cifar preact": (kuangliu_preact, {}),
    "cifar preact bottleneck": (kuangliu_preact, {}),
}


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
    assert {assumption.name for assumption in chain.origin.assumptions}.isdisjoint(assume)
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
