"""The output folder: read back in a new process, by plain timm, whole or not at all."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from test_exits import with_own

from resprune import pipeline
from resprune.chain import ResidualChain
from resprune.errors import OutputError
from resprune.exits import SkipChainExits
from resprune.exporting.folder import whole_or_nothing, write_text
from resprune.selection import select

READ_BACK = """
import sys, torch, resprune
torch.set_num_threads(1)
network = resprune.load(sys.argv[1]).network
torch.save(network(torch.load(sys.argv[2])), sys.argv[3])
"""
READ_BACK_TIMM = """
import sys, torch
sys.modules["resprune"] = None  # must not be needed
import timm
torch.set_num_threads(1)
network = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
with torch.inference_mode():
    torch.save(network(torch.load(sys.argv[2])), sys.argv[3])
"""


def prune(chain: ResidualChain, depth: int) -> pipeline.Pruned:
    return pipeline.prune(chain, select(depth=depth, blocks=chain.depth))


def run(script: str, folder: Path, images: torch.Tensor) -> torch.Tensor:
    inputs, outputs = folder.parent / "inputs.pt", folder.parent / "outputs.pt"
    torch.save(images, inputs)
    command = [sys.executable, "-c", script, str(folder), str(inputs), str(outputs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(outputs)


@torch.inference_mode()
def test_every_depth_comes_back_bit_by_bit(chain: ResidualChain, images: torch.Tensor, tmp_path: Path) -> None:
    for depth in range(chain.depth + 1):
        pruned = prune(chain, depth)
        pipeline.save(pruned, tmp_path / f"m{depth}")
        back = pipeline.load(tmp_path / f"m{depth}", device="cpu")
        assert torch.equal(back.network(images), pruned.chain.network(images))
        assert back.architecture == pruned.chain.architecture
        assert back.preprocessing.mean == chain.preprocessing.mean


@torch.inference_mode()
def test_a_new_process_reads_the_same_network(tmp_path: Path) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    pruned, images = prune(chain, 4), make_images(chain, 3)
    pipeline.save(pruned, tmp_path / "out")
    assert torch.equal(run(READ_BACK, tmp_path / "out", images), pruned.chain.network(images))


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("torchvision basic", 3),
        ("torchvision basic", 1),
        ("torchvision basic", 4),
        ("torchvision bottleneck", 3),
        ("torchvision resnext", 3),
    ],
)
@torch.inference_mode()
def test_plain_timm_reads_the_same_network(name: str, channels: int, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    chain = make_chain(replace(architecture, options={**architecture.options, "in_channels": channels}))
    depth = chain.depth if name == "torchvision resnext" else chain.depth - 1
    if name == "torchvision bottleneck":
        depth = chain.depth  # its last stage has one block
    pruned, images = prune(chain, depth), make_images(chain, 3)
    assert pruned.outcome.loads_in_timm
    pipeline.save(pruned, tmp_path / "out")
    assert torch.equal(run(READ_BACK_TIMM, tmp_path / "out", images), pruned.chain.network(images))


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
    files = pipeline.save(pruned, tmp_path / "out")
    assert files == ["README.md", "config.json", "model.safetensors", "report.json"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["plan"] == {
        "rule": "tail, depth 7",
        "removed": [7],
        "kept": list(range(7)),
        "depth": 7,
        "reasons": ["kept: among the first 7"] * 7 + ["removed: not among the first 7"],
        "divergence": None,
        "speed": None,
        "beside": [],
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
