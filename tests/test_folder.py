"""The output folder: read back in a new process, by plain timm, whole or not at all."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from test_exits import with_own
from timm.data.transforms_factory import create_transform

from resprune import configs, pipeline
from resprune.chain import ResidualChain
from resprune.errors import OutputError, VerificationError
from resprune.exits import SkipChainExits
from resprune.exporting import folder
from resprune.exporting.folder import whole_or_nothing
from resprune.exporting.verifying import Written, folder_readings, read_back
from resprune.placing import write_text
from resprune.records import Architecture
from resprune.selection import select


def timm_s(arch: str, channels: int = 3) -> Architecture:
    options = {"arch": arch, "in_channels": channels, "classes": 7}
    return Architecture("timm", arch, ("b", "bb", "b", "b"), options)


def with_channels(name: str, channels: int) -> Architecture:
    architecture = ARCHITECTURES[name]
    return replace(architecture, options={**architecture.options, "in_channels": channels})


MATRIX = ARCHITECTURES | {
    "torchvision basic, grey": with_channels("torchvision basic", 1),
    "torchvision basic, 4 channels": with_channels("torchvision basic", 4),
    "timm squeeze and excitation": timm_s("legacy_seresnet18"),
    "timm selective kernels": timm_s("skresnet18", channels=1),
    "timm res2net": timm_s("res2net50_14w_8s"),
    "timm resnest": timm_s("resnest14d"),
}
"""Every family, and what stock classes there are."""
TIMM = ("torchvision basic", "torchvision bottleneck", "torchvision resnext", "timm deep stem")
TIMM += ("timm pre-activation", *(name for name in MATRIX if name not in ARCHITECTURES))
TORCHVISION = (*TIMM[:3], "torchvision regnet x", "torchvision regnet y")
"""What loads them without the last block of a stage that has several."""


def prune(chain: ResidualChain, depth: int) -> pipeline.Pruned:
    return pipeline.prune(chain, select(depth=depth, blocks=chain.depth))


def without_one(chain: ResidualChain) -> pipeline.Pruned:
    """Remove the last block of the first stage that has several."""
    stage = next(index for index, letters in enumerate(chain.architecture.stages) if len(letters) > 1)
    last = max(block.index for block in chain.blocks if block.stage == stage)
    return pipeline.prune(chain, select(remove=[last], paths=[block.path for block in chain.blocks]))


@pytest.mark.exhaustive
@torch.inference_mode()
def test_every_depth_comes_back_bit_by_bit(chain: ResidualChain, images: torch.Tensor, tmp_path: Path) -> None:
    for depth in range(chain.depth + 1):
        pruned = prune(chain, depth)
        pipeline.save(pruned, tmp_path / f"m{depth}", read_back=False)
        back = pipeline.load(tmp_path / f"m{depth}", device="cpu")
        assert torch.equal(back.network(images), pruned.chain.network(images))
        assert back.architecture == pruned.chain.architecture
        assert back.preprocessing.mean == chain.preprocessing.mean


@pytest.mark.new_process
def test_every_family_is_read_bit_by_bit_where_resprune_cannot_be_imported(tmp_path: Path) -> None:
    written: list[Written] = []
    for name, architecture in MATRIX.items():
        pruned, out = without_one(make_chain(architecture)), tmp_path / name
        assert pipeline.save(pruned, out, read_back=False).read_back is None
        readings = folder_readings(pruned.chain, out, None)
        libraries = {"safetensors": True, "timm": name in TIMM, "torchvision": name in TORCHVISION}
        assert [one.format for one in readings] == [library for library, can in libraries.items() if can]
        written += readings
    found = read_back(written)
    assert {one.max_abs_difference for one in found} == {0.0}
    assert all(one.new_process for one in found)


def test_a_stage_of_which_the_projection_is_left_is_no_stock_class(tmp_path: Path) -> None:
    chain = make_chain(ARCHITECTURES["torchvision basic"])
    pruned = prune(chain, 5)
    assert not pruned.outcome.loads_in_timm
    names = pruned.chain.network.state_dict()
    assert "layer4.0.downsample.0.weight" in names
    assert "layer4.0.conv1.weight" not in names
    pipeline.save(pruned, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["resprune"]["architecture"]["stages"] == ["bb", "bbb", "s", "s"]
    assert "pretrained_cfg" not in config


@torch.inference_mode()
def test_exit_statistics_come_back(tmp_path: Path) -> None:
    chain = with_own(make_chain(ARCHITECTURES["preact homogeneous"]))
    pruned, images = prune(chain, 4), make_images(chain, 3)
    pipeline.save(pruned, tmp_path / "out")
    back = pipeline.load(tmp_path / "out", device="cpu")
    assert torch.equal(SkipChainExits(back)(images), SkipChainExits(pruned.chain)(images))


def test_the_folder_says_what_was_done(tmp_path: Path) -> None:
    pruned = prune(make_chain(ARCHITECTURES["cifar option A"]), 7)
    files = pipeline.save(pruned, tmp_path / "out").files
    assert list(files) == ["README.md", "config.json", "model.safetensors", "report.json"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["plan"] == {
        "rule": "tail, depth 7",
        "removed": [7],
        "kept": list(range(7)),
        "depth": 7,
        "reasons": ["kept: among the first 7"] * 7 + ["removed: not among the first 7"],
        "divergence": None,
        "speed": None,
        "drop": None,
        "beside": [],
        "rivals": [],
        "order": [],
    }
    assert report["verified"]["max_abs_difference"] <= report["verified"]["tolerance"]
    section = json.loads((tmp_path / "out" / "config.json").read_text())["resprune"]
    assert section["origin"]["sha256"] == "0" * 64
    assert section["plan"] == report["plan"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'resprune.load("out")' in card
    for path in (tmp_path / "out").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~_umask()
        assert str(tmp_path).encode() not in path.read_bytes()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one/out", "two/out"):
        pipeline.save(prune(make_chain(ARCHITECTURES["cifar option A"]), 5), tmp_path / name)
    for path in (tmp_path / "one" / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "out" / path.name).read_bytes()


def write_and_fail(folder: Path, force: bool) -> None:
    with whole_or_nothing(folder, force) as draft:
        (draft / "model.safetensors").write_text("half")
        raise KeyboardInterrupt


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(tmp_path / "out", force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole_or_nothing(out, force=False) as draft:
        (draft / "model.safetensors").write_text("old")
        (draft / "config.json").write_text('{"resprune": {}}')
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(out, force=True)
    assert (out / "model.safetensors").read_text() == "old"
    with whole_or_nothing(out, force=True) as draft:
        (draft / "model.safetensors").write_text("new")
    assert (out / "model.safetensors").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folders_that_are_not_ours_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "home" / name).write_text('{"resprune": {}}')
    with pytest.raises(OutputError, match="no folder of resprune's"), whole_or_nothing(tmp_path / "home", True):
        pass
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_a_text_file_replaces_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "one")
    write_text(tmp_path / "a.csv", "two")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["two"]
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "nowhere" / "a.csv", "three")


def test_what_is_read_back_as_another_network_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned, other = (prune(make_chain(ARCHITECTURES["cifar option A"], seed), 5) for seed in (0, 1))
    pipeline.save(pruned, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    real = folder.write_network
    monkeypatch.setattr(folder, "write_network", lambda chain, *others: real(other.chain, *others))
    for name, force in (("new", False), ("out", True)):
        with pytest.raises(VerificationError, match="differ from the source network on 4 seeded images, read"):
            pipeline.save(pruned, tmp_path / name, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_real_images_are_read_back_where_there_are_some(
    tmp_path: Path, image_folder: Callable[..., Path]
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    images = image_folder(each=1)
    for data, seen in ((images, 4), (images / "class0", 1)):
        pruned = pipeline.prune(chain, select(depth=5, blocks=chain.depth), data, recover=False)
        found = pipeline.save(pruned, tmp_path / f"out{seen}").read_back
        assert found is not None
        assert (found.inputs, found.samples, found.max_abs_difference) == ("images", seen, 0)
        report = json.loads((tmp_path / f"out{seen}" / "report.json").read_text())
        assert report["read_back"]["samples"] == seen
        assert report["read_back"]["readers"] == list(found.readers)


def test_timm_scales_to_as_many_pixels_as_were_written() -> None:
    mended = []
    for side, resize in product(range(32, 513), repeat=2):
        fraction = folder.crop_pct(side, resize)
        assert math.floor(side / fraction) == resize  # as timm computes it
        if fraction != side / resize:
            mended.append((side, resize, fraction))
    assert {(160, 212), (192, 225), (384, 450)} <= {pair[:2] for pair in mended}
    for side, resize, fraction in (*mended[::10], (224, 256, folder.crop_pct(224, 256))):
        recipe = {"mean": [0.5], "std": [0.5], "interpolation": "bicubic", "crop_pct": fraction}
        config = {"architecture": "resnet18", "pretrained_cfg": recipe | {"input_size": [1, side, side]}}
        found = configs._timm(config, Path("config.json")).preprocessing
        assert found is not None
        assert found.resize == resize


def test_a_folder_s_scaling_is_the_one_that_timm_does(tmp_path: Path) -> None:
    made = make_chain(MATRIX["torchvision basic"])
    recipe = replace(made.preprocessing, height=160, width=160, resize=212)
    folder.write_network(replace(made, preprocessing=recipe), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    size, fraction = tuple(config["input_size"]), config["crop_pct"]
    steps: Any = create_transform(size, crop_pct=fraction, crop_mode=config["crop_mode"])
    assert steps.transforms[0].size == 212
