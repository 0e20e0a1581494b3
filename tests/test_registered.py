"""torchvision's names, with weights on disk and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

import resprune


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


@pytest.mark.parametrize("name", ["torchvision/resnet19", "torchvision/resnet18.V9"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(resprune.ResPruneError, match="no such weights"):
        resprune.load(name)
