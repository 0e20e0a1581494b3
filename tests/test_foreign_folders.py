"""Folders of other programs: timm's, Hugging Face's, shards, a single file, and pieces that are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from conftest import randomise
from forms import (
    assert_same,
    to_hugging_face,
    write_json,
    write_shards,
)
from safetensors.torch import save_file
from stored import weights
from torch import nn

from resprune import checkpoint
from resprune.errors import CheckpointError, ResPruneError
from resprune.opening import open_chain
from resprune.records import Claim


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
    "no crop": ({"size": 384, "crop_pct": 0.875}, (384, 384, 384)),
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
    for place in (index, index.parent, index.parent / "model-00002-of-00002.safetensors"):
        found = checkpoint.read(place)
        assert_same(found.weights, weights())
        hashes = [
            hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(index.parent.glob("*.safetensors"))
        ]
        assert found.origin.sha256 == hashlib.sha256("".join(hashes).encode()).hexdigest()
        assert "joined 2 shards" in found.origin.notes


@pytest.mark.parametrize("file", ["../x.safetensors", "/etc/passwd", "link.safetensors", "", "a\0b"])
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
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "deepspeed.utils.zero_to_fp32"),
        (["mp_rank_00_model_states.pt"], "deepspeed.utils.zero_to_fp32"),
    ],
)
def test_pieces_of_distributed_programs_are_refused(files: list[str], match: str, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(tmp_path)
