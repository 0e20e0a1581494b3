"""torchvision's and timm's names, with weights on disk and without."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
import torchvision

import resprune
from resprune import registered
from resprune.records import Claim


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_weights_on_disk_are_read_with_their_own_preprocessing(hub: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    torch.save(network.state_dict(), hub / "resnet50-11ad3fa6.pth")
    chain = resprune.load("torchvision/resnet50", device="cpu")
    assert chain.architecture.name == "resnet50"
    assert chain.origin.path == "torchvision/resnet50"
    assert (chain.preprocessing.resize, chain.preprocessing.height) == (232, 224)
    assert torch.equal(chain.network.get_parameter("fc.weight"), network.fc.weight)


def test_weights_that_are_not_on_disk_are_not_downloaded(hub: Path) -> None:
    with pytest.raises(resprune.ResPruneError, match=r"not on disk .*resnet18-f37072fd.pth"):
        resprune.load("torchvision/resnet18")
    with pytest.raises(resprune.ResPruneError, match=r"resnet50-0676ba61.pth"):
        resprune.load("torchvision/resnet50.IMAGENET1K_V1")


@pytest.mark.parametrize(
    "name", ["torchvision/resnet19", "torchvision/resnet18.V9", "timm/resnet19", "timm/resnet18.v9"]
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(resprune.ResPruneError, match="no such weights"):
        resprune.load(name)


def test_timm_weights_in_the_hugging_face_cache_are_read(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    repository = tmp_path / "hf" / "models--timm--resnet18.a1_in1k"
    (repository / "snapshots" / "1").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    (repository / "snapshots" / "1" / "model.safetensors").touch()
    path, recipe, claim = _found("timm/resnet18")
    assert path == repository / "snapshots" / "1" / "model.safetensors"
    assert (recipe.height, recipe.resize, recipe.interpolation) == (224, 235, "bicubic")
    assert claim == Claim("resnet18", "timm", where="the name")
    with pytest.raises(resprune.ResPruneError, match=r"not on disk \(timm/resnet18\.a2_in1k\)"):
        registered.find("timm/resnet18.a2_in1k")


def test_timm_weights_that_torch_downloaded_are_read(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    (hub / "resnet18_a1_0-d63eafa0.pth").touch()
    assert _found("timm/resnet18.a1_in1k")[0] == hub / "resnet18_a1_0-d63eafa0.pth"


def _found(name: str) -> registered.Found:
    found = registered.find(name)
    assert found is not None
    return found
