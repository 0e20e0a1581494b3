"""Every form in which users have a network: the weights that come out are the network's, and notes say how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from conftest import randomise
from forms import (
    averaged_model,
    below,
    inserted,
    other,
    profiled,
    timm_training,
    to_hugging_face,
    torchvision_training,
    write_json,
    write_shards,
)
from safetensors.torch import save_file
from stored import Weights, prefixed, weights
from torch import nn

from resprune import checkpoint
from resprune.errors import ArchitectureError, CheckpointError, ResPruneError, UsageError
from resprune.opening import open_chain
from resprune.records import Claim, Reading
from resprune.unwrap import Unwrapped, unwrap

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "model_ema",
    "state_dict_ema",
    "ema",
    "ema_state_dict",
    "params",
    "params_ema",
    "weights",
)
EMA = Reading(weights="ema")

Form = tuple[Callable[[], object], str]
FORMS: dict[str, Form] = {
    "plain": (weights, ""),
    **{key: (lambda key=key: {key: weights(), "epoch": 3}, f"unwrapped {key}") for key in WRAPPERS},
    "average nested": (lambda: {"ema": {"module": weights(), "decay": 0.9}}, "unwrapped ema.module"),
    "average": (averaged_model, "dropped, not the network's: n_averaged"),
    "data parallel": (lambda: prefixed("module."), "stripped the prefix module."),
    "compiled": (lambda: prefixed("_orig_mod.module."), "stripped the prefix _orig_mod.module."),
    "sharded data parallel": (
        lambda: inserted("_fsdp_wrapped_module."),
        "cut _fsdp_wrapped_module. out of names",
    ),
    "checkpointed": (
        lambda: inserted("_checkpoint_wrapped_module."),
        "cut _checkpoint_wrapped_module. out of names",
    ),
    "any prefix": (lambda: prefixed("my_classifier."), "stripped the prefix my_classifier."),
    "lightning": (
        lambda: {"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(7)}, "epoch": 3},
        "dropped beside model.: criterion.weight",
    ),
    "lightning with a teacher": (
        lambda: {"state_dict": prefixed("net.") | below("teacher.", other())},
        "also holds state_dict.teacher: --weights ema reads it",
    ),
    "two names of one tensor": (lambda: weights() | prefixed("module."), "cut module. out of names"),
    "profiled": (profiled, "dropped, not the network's: total_ops, layer1.0.total_params"),
    "openmmlab": (
        lambda: {
            "meta": {},
            "state_dict": {
                (f"head.{k.replace('linear', 'fc')}" if k.startswith("linear") else f"backbone.{k}"): t
                for k, t in weights().items()
            },
        },
        "renamed from OpenMMLab's names",
    ),
    "torchvision's training": (torchvision_training, "dropped beside model: optimizer, lr_scheduler"),
    "timm's training": (timm_training, "also holds state_dict_ema: --weights ema reads it"),
}


def read(content: object, how: Reading = checkpoint.READ_SAFELY) -> Unwrapped:
    return unwrap(content, "net.pt", how)


def assert_same(got: Mapping[str, torch.Tensor], expected: Weights) -> None:
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_weights_are_the_network_s(form: Form) -> None:
    make, note = form
    found = read(make())
    renamed = {name.replace("linear.", "fc."): tensor for name, tensor in weights().items()}
    assert_same(found.weights, renamed if "OpenMMLab" in note else weights())
    assert any(line.startswith(note) for line in found.notes) or not note


AVERAGES: dict[str, Callable[[], object]] = {
    "beside": lambda: {"state_dict": weights(), "state_dict_ema": other()},
    "averaged model": lambda: {
        "model": weights(),
        "model_ema": {"n_averaged": torch.tensor(1), **below("module.", other())},
    },
    "lightning": lambda: {"state_dict": prefixed("model.") | below("ema_model.", other())},
}


@pytest.mark.parametrize("make", AVERAGES.values(), ids=AVERAGES)
def test_averaged_weights_are_read_where_asked_for(make: Callable[[], object]) -> None:
    assert_same(read(make()).weights, weights())
    averaged = read(make(), EMA)
    assert_same(averaged.weights, other())
    assert any("--weights model reads it" in note for note in averaged.notes)


CLAIMS: dict[str, tuple[Callable[[], dict[str, Any]], Claim | None]] = {
    "torchvision": (
        torchvision_training,
        Claim("resnet18", "torchvision", where="args.model of the checkpoint"),
    ),
    "timm": (
        timm_training,
        Claim("resnet26d", "timm", {"stem_width": 8}, "args.model of the checkpoint"),
    ),
    "torch's example": (
        lambda: {"arch": "resnet18", "state_dict": weights(), "best_acc1": 1.0},
        Claim("resnet18", "torchvision", where="arch of the checkpoint"),
    ),
    "lightning": (
        lambda: {"state_dict": prefixed("model."), "hyper_parameters": {"backbone": "resnet34", "lr": 1}},
        Claim("resnet34", where="hyper_parameters.backbone of the checkpoint"),
    ),
    "nothing": (lambda: {"state_dict": weights(), "args": {"lr": 1}}, None),
}


@pytest.mark.parametrize("case", CLAIMS.values(), ids=CLAIMS)
def test_what_the_program_says_is_claimed(case: tuple[Callable[[], object], Claim | None]) -> None:
    make, claim = case
    assert read(make()).claim == claim


Refusal = tuple[Callable[[], object], Reading, type[ResPruneError], str]
REFUSALS: dict[str, Refusal] = {
    "no average": (
        lambda: {"model": weights()},
        EMA,
        UsageError,
        r"no averaged weights .*found: model.; --weights model",
    ),
    "no own": (
        lambda: {"model_ema": weights()},
        Reading(weights="model"),
        UsageError,
        r"found: model_ema.; --weights ema",
    ),
    "two tensors": (
        lambda: weights() | below("module.", other()),
        Reading(),
        ArchitectureError,
        r"conv1\.weight and module\.conv1\.weight are different weights",
    ),
    "no classifier": (
        lambda: {"embedder.embedder.convolution.weight": torch.ones(64, 3, 7, 7)},
        Reading(),
        CheckpointError,
        "without its classifier",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_refusals_say_what_is_there(case: Refusal) -> None:
    make, how, kind, match = case
    with pytest.raises(kind, match=match) as caught:
        read(make(), how)
    assert caught.value.hint


# Folders


def network(name: str = "resnet18", **arguments: Any) -> nn.Module:
    built = timm.create_model(name, num_classes=7, **arguments).eval()
    randomise(built, 0)
    return built


@torch.inference_mode()
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("name", ["resnet10t", "resnet18"])
def test_timm_s_folders_give_timm_s_logits(name: str, safe: bool, tmp_path: Path) -> None:
    native, images = network(name), torch.randn(2, 3, 32, 32)
    file = "model.safetensors" if safe else "pytorch_model.bin"
    state = native.state_dict()
    (save_file if safe else torch.save)(state, tmp_path / file)
    recipe = {
        "input_size": [3, 176, 176],
        "mean": [0.1, 0.2, 0.3],
        "std": [1.0, 1.0, 2.0],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    }
    config = {"architecture": name, "num_classes": 7, "pretrained_cfg": recipe}
    write_json(tmp_path / "config.json", config)
    found = checkpoint.read(tmp_path)
    assert found.claim == Claim(name, "timm", {}, "config.json")
    assert found.preprocessing is not None
    assert (found.preprocessing.resize, found.preprocessing.interpolation) == (201, "bicubic")
    torch.testing.assert_close(open_chain(found).network(images), native(images))


HUGGING_FACE = {"model_type": "resnet", "layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "resample": 3}
PROCESSORS: dict[str, tuple[dict[str, Any], tuple[int, int, int | None]]] = {
    "crop_pct": ({"size": 224, "crop_pct": 0.875}, (224, 224, 256)),
    "shortest edge": ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, (224, 224, 256)),
    "crop": ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 200}}, (224, 200, 256)),
    "both sides": ({"size": {"height": 96, "width": 128}}, (96, 128, 96)),
    "as they are": ({"size": 32, "do_resize": False}, (32, 32, None)),
}


@pytest.mark.parametrize("case", PROCESSORS.values(), ids=PROCESSORS)
def test_hugging_face_s_preprocessing(
    case: tuple[dict[str, Any], tuple[int, int, int | None]], tmp_path: Path
) -> None:
    save_file(to_hugging_face(dict(torchvision.models.resnet18().state_dict())), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", HUGGING_FACE)
    write_json(tmp_path / "preprocessor_config.json", PROCESSOR | case[0])
    recipe = checkpoint.read(tmp_path).preprocessing
    assert recipe is not None
    assert (recipe.height, recipe.width, recipe.resize) == case[1]
    assert (recipe.interpolation, recipe.source) == ("bicubic", "preprocessor_config.json")


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_hugging_face_s_names_become_torchvision_s(name: str, tmp_path: Path) -> None:
    state = dict(torchvision.models.get_model(name, num_classes=7).state_dict())
    basic = HUGGING_FACE if name == "resnet18" else {"model_type": "resnet", "downsample_in_bottleneck": True}
    save_file(to_hugging_face(state), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", basic)
    found = checkpoint.read(tmp_path)
    assert_same(found.weights, state)
    stride = "3x3" if name == "resnet18" else "1x1"
    assert found.claim == Claim("", "huggingface", {"stride": stride}, "config.json")
    bare = checkpoint.read(tmp_path / "model.safetensors")
    assert_same(bare.weights, state)
    assert bare.claim is None


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "activation": (HUGGING_FACE | {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "first stage": (HUGGING_FACE | {"downsample_in_first_stage": True}, "downsample_in_first_stage is True"),
    "stem": (HUGGING_FACE | {"embedding_size": 32}, "embedding_size is 32"),
    "widths": (HUGGING_FACE | {"hidden_sizes": [8, 16]}, "hidden_sizes is"),
    "timm": ({"architecture": "resnet18", "pretrained_cfg": {"mean": [1]}}, "lacks input_size, std, crop_pct"),
    "ours": ({"resprune": {}}, "config is damaged"),
    "list": ({"architecture": "resnet18", "model_args": [1]}, "model_args is"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_a_config_that_cannot_be_followed_is_refused(case: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", case[0])
    with pytest.raises(ResPruneError, match=case[1]):
        checkpoint.read(tmp_path)


def test_an_unknown_config_claims_nothing(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"model_type": "something"})
    assert checkpoint.read(tmp_path).claim is None


def test_shards_are_joined(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "net", weights())
    for place in (index, index.parent):
        found = checkpoint.read(place)
        assert_same(found.weights, weights())
        hashes = [
            hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(index.parent.glob("*.safetensors"))
        ]
        assert found.origin.sha256 == hashlib.sha256("".join(hashes).encode()).hexdigest()
        assert "joined 2 shards" in found.origin.notes


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "link.safetensors", ""])
def test_an_index_names_files_of_its_folder_only(file: str, tmp_path: Path) -> None:
    index = write_shards(tmp_path / "net", weights())
    save_file(weights(), tmp_path / "x.safetensors")
    (tmp_path / "net" / "link.safetensors").symlink_to(tmp_path / "x.safetensors")
    write_json(index, {"weight_map": {"conv1.weight": file}})
    with pytest.raises(CheckpointError, match="not in its folder"):
        checkpoint.read(index)


def test_missing_shards_and_tensors_are_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path / "net", weights())
    content = json.loads(index.read_text())
    write_json(index, {"weight_map": content["weight_map"] | {"x": "model-00002-of-00002.safetensors"}})
    with pytest.raises(CheckpointError, match=r"00002-of-00002.*lacks tensors that the index names \(x\)"):
        checkpoint.read(index)
    (tmp_path / "net" / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"not there \(model-00001"):
        checkpoint.read(index)


def test_a_folder_s_only_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "best.pth")
    found = checkpoint.read(tmp_path)
    assert_same(found.weights, weights())
    assert "read best.pth, the folder's only checkpoint" in found.origin.notes
    torch.save(weights(), tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"best\.pth, last\.pth.*resprune inspect .*best\.pth"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ([".metadata", "__0_0.distcp"], "dcp_to_torch"),
        (["latest", "zero_to_fp32.py"], "deepspeed.utils.zero_to_fp32"),
        (["mp_rank_00_model_states.pt"], "deepspeed.utils.zero_to_fp32"),
    ],
)
def test_pieces_of_distributed_programs_are_refused(files: list[str], match: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(tmp_path)
