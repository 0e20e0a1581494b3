"""timm's residual networks: every name is recovered from names and shapes, every kind is split, pruned, saved.

A *kind* is what a constructor builds whatever its depth: resnet50d, 101d, 152d and 200d are one. Where the
depth is free, a kind is tested with seven blocks, so that the wide ones fit into the suite too.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import randomise
from torch import Tensor, nn

from resprune import families, surgery
from resprune.chain import ResidualChain
from resprune.checkpoint import Checkpoint
from resprune.errors import ArchitectureError
from resprune.exits import SkipChainExits
from resprune.exporting import folder
from resprune.families import timm_index
from resprune.families.timm_index import Entry
from resprune.opening import open_chain
from resprune.records import Origin, PrunePlan, Wish

CLASSES = 5
SIZES = {"resnet50_clip": 224, "bat_resnext26ts": 256}
"""Pixels, where attention takes no smaller images."""
LARGEST = 50_000_000
"""Parameters of the largest kind that is tested with numbers."""

INSTALLED = [entry for entry in timm_index.entries() if timm.is_model(entry.name)]
READABLE = [entry for entry in INSTALLED if entry.readable]
UNREADABLE = [entry for entry in INSTALLED if not entry.readable]
LOADER = """
import sys, json, torch
torch.set_num_threads(1)
import timm
import resprune
for line in sys.stdin:
    job = json.loads(line)
    images = torch.load(job["images"])
    out = {"resprune": resprune.load(job["folder"], device="cpu").network(images)}
    if job["timm"]:
        network = timm.create_model("local-dir:" + job["folder"], pretrained=True).eval()
        out["timm"] = network(images).detach()
        timm.create_model("local-dir:" + job["folder"], pretrained=True, num_classes=3)
        timm.create_model("local-dir:" + job["folder"], pretrained=True, in_chans=1)
    torch.save(out, job["logits"])
    print("done", flush=True)
"""


def build(entry: Entry, device: str = "meta", **arguments: Any) -> nn.Module:
    try:
        with torch.device(device):
            return timm.create_model(entry.name, num_classes=CLASSES, **arguments).eval()
    except NotImplementedError:  # older timm computes the widths of a RegNet with tensors
        return timm.create_model(entry.name, num_classes=CLASSES, **arguments).eval().to(device)


def reduced(entry: Entry, device: str = "meta") -> nn.Module:
    return build(entry, device, **({"layers": [2, 2, 2, 1]} if entry.depth_is_free else {}))


def with_numbers(entry: Entry) -> nn.Module:
    """Return a network with random weights; timm's own initialisation is slow and left out where it can be."""
    network = reduced(entry)
    if {name for name, _ in network.named_buffers()} <= network.state_dict().keys():
        network = network.to_empty(device="cpu")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    else:
        network = reduced(entry, "cpu")
    randomise(network.requires_grad_(False), seed=0)
    return network


def opened(network: nn.Module, arch: str | None = None) -> ResidualChain:
    return open_chain(Checkpoint(dict(network.state_dict()), Origin("test", "", "")), wish=Wish(arch))


def structure(network: nn.Module) -> list[str]:
    """Return the layers that have shapes and strides, as text, whatever a library calls them."""
    return sorted(repr(m) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MaxPool2d))


@pytest.mark.exhaustive
def test_every_readable_name_is_recovered_from_names_and_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    """Either at once, or with exactly the flag that ``inspect`` asks for."""
    at_once, with_flag, lost = [], [], []
    for entry in READABLE:
        network = build(entry)
        chain = opened(network)
        if same(chain, entry, network):
            at_once.append(entry.name)
        else:
            flags = [a for a in chain.origin.assumptions if a.name == "arch" and entry.name in a.others]
            again = opened(network, entry.name)
            (with_flag if flags and same(again, entry, network) else lost).append(entry.name)
    with capsys.disabled():
        print(
            f"\n{len(READABLE)} timm names: {len(at_once)} recovered from names and shapes,"
            f" {len(with_flag)} with the flag that inspect asks for, {len(lost)} not"
        )
    assert len(READABLE) >= 120
    assert len(lost) <= 0.05 * len(READABLE), lost
    assert not lost


def same(chain: ResidualChain, entry: Entry, network: nn.Module) -> bool:
    found = chain.architecture.options.get("arch")
    if found is not None:
        named = timm_index.named(found)
        return (
            named is not None and named.kind == entry.kind and chain.architecture.options["classes"] == CLASSES
        )
    # Another family's own classes: compare what they are made of.
    mine = {key: tensor.shape for key, tensor in chain.network.state_dict().items()}
    theirs = {key: tensor.shape for key, tensor in network.state_dict().items()}
    return mine == theirs and structure(chain.network) == structure(network) and blurs(network) == 0


def blurs(network: nn.Module) -> int:
    return sum("Blur" in type(module).__name__ or type(module) is nn.AvgPool2d for module in network.modules())


@pytest.mark.parametrize("entry", UNREADABLE, ids=lambda entry: entry.name)
def test_blocks_that_cannot_be_removed_are_refused_by_name(entry: Entry) -> None:
    reason = "behind the block's norm and activation" if "regnetv" in entry.name else "has no skip connection"
    with pytest.raises(ArchitectureError, match=rf"test, (s\d\.b\d|stages\.\d\.\d): the .*{reason}"):
        opened(build(entry))


def kinds() -> list[Entry]:
    """Return one network of every kind, those too large for the suite left out."""
    found: dict[str, Entry] = {}
    for entry in READABLE:
        found.setdefault(entry.kind, entry)
    return [entry for entry in found.values() if entry.name not in TOO_LARGE]


TOO_LARGE = {
    "regnetx_160",
    "resnet101_clip",
    "regnetx_320",
    "regnety_160",
    "regnety_320",
    "regnety_640",
    "regnety_1280",
    "regnety_2560",
    "resnet50x4_clip",
    "resnet50x4_clip_gap",
    "resnet50x16_clip",
    "resnet50x16_clip_gap",
    "resnet50x64_clip",
    "resnet50x64_clip_gap",
    "resnetv2_50x3_bit",
    "resnetv2_101x3_bit",
    "resnetv2_152x2_bit",
    "resnetv2_152x4_bit",
    "resnext101_32x32d",
}


def test_only_what_is_too_large_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    names = kinds()
    covered = {entry.kind for entry in names}
    with capsys.disabled():
        same_kind = sum(entry.kind in covered for entry in READABLE)
        print(f"\n{len(names)} kinds of timm networks pruned and saved, which {same_kind} names are built as")
    assert len(names) >= 120
    for entry in READABLE:
        if entry.name in TOO_LARGE:
            assert sum(p.numel() for p in reduced(entry).parameters()) > LARGEST, entry.name


@pytest.fixture(scope="module")
def loader() -> Iterator[subprocess.Popen[str]]:
    """A process that has nothing of this one: it loads folders and writes their logits."""
    command = [sys.executable, "-c", LOADER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def every_kind() -> list[Any]:
    """Return all kinds as parameters; every tenth is tested always."""
    marks = pytest.mark.exhaustive
    return [
        pytest.param(entry, id=entry.name, marks=() if index % 10 == 0 else marks)
        for index, entry in enumerate(kinds())
    ]


@pytest.mark.parametrize("entry", every_kind())
@torch.inference_mode()
def test_every_kind_is_split_pruned_saved_and_loaded(
    entry: Entry, loader: subprocess.Popen[str], tmp_path: Path
) -> None:
    network = with_numbers(entry)
    chain = opened(network, f"timm/{entry.name}")
    size = SIZES.get(entry.name, 64)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    torch.save(images, tmp_path / "images")
    expected = network(images)
    assert torch.equal(chain(images), expected)
    exits = SkipChainExits(chain)(images)
    close(exits[:, -1], expected)
    half = chain.depth // 2
    tail = PrunePlan("tail", tuple(range(half, chain.depth)), tuple(range(half)))
    middle = tuple(block.index for block in chain.blocks if not len(block.part.skip))[:2]
    surgical = PrunePlan("some", middle, tuple(k for k in range(chain.depth) if k not in middle))
    reference = zeroed(network, [chain.blocks[k].path for k in middle])(images)
    check_pruned(entry, chain, surgical, reference, images, loader, tmp_path)
    reference = zeroed(network, [chain.blocks[k].path for k in tail.removed])(images)
    close(exits[:, half], reference)
    check_pruned(entry, chain, tail, reference, images, loader, tmp_path)
    assert torch.equal(network(images), expected)


def check_pruned(
    entry: Entry,
    chain: ResidualChain,
    plan: PrunePlan,
    expected: Tensor,
    images: Tensor,
    loader: subprocess.Popen[str],
    path: Path,
) -> None:
    """Check a plan's result, and what another process makes of its folder."""
    pruned = surgery.remove_blocks(chain, plan)
    assert pruned.depth == plan.depth
    logits = pruned.network(images)
    close(logits, expected)
    free = entry.depth_is_free or not plan.removed
    assert folder.loads_in_timm(pruned) == (pruned.architecture.is_stock and free)
    target = path / plan.rule
    target.mkdir()
    folder.write_network(pruned, target)
    job = {"folder": target, "images": path / "images", "logits": path / "logits"}
    job = {key: str(value) for key, value in job.items()} | {"timm": folder.loads_in_timm(pruned)}
    assert loader.stdin is not None
    assert loader.stdout is not None
    loader.stdin.write(json.dumps(job) + "\n")
    loader.stdin.flush()
    assert loader.stdout.readline() == "done\n"
    for ours in torch.load(path / "logits").values():
        assert torch.equal(ours, logits)
    (target / "model.safetensors").unlink()


def close(ours: Tensor, expected: Tensor) -> None:
    assert bool(torch.isfinite(expected).all())
    assert float((ours - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def zeroed(network: nn.Module, paths: list[str]) -> nn.Module:
    """Return a copy of the whole library network in which these blocks' branches give zero.

    Independent of resprune's split: the last convolution of a block outside its shortcut and attention, or the
    norm behind it, is set to zero.
    """
    network = copy.deepcopy(network)
    for path in paths:
        layers = [
            layer
            for name, layer in network.get_submodule(path).named_modules()
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm)
            and not name.startswith(("downsample", "shortcut", "se", "attn"))
        ]
        last = layers[-1]
        assert isinstance(last.weight, Tensor)
        last.weight.zero_()
        if isinstance(last.bias, Tensor):
            last.bias.zero_()
    return network


def test_a_depth_that_timm_has_no_name_for_is_read_too() -> None:
    network = timm.create_model("resnet50d", layers=[1, 3, 2, 1], num_classes=CLASSES, in_chans=1).eval()
    randomise(network, seed=0)
    chain = opened(network)
    assert chain.architecture.stages == ("b", "bbb", "bb", "b")
    images = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(chain.network(images), network(images))


def test_arguments_of_a_config_are_checked_before_timm_gets_them() -> None:
    network = build(timm_index.entries()[0])
    found = families.recognise(network.state_dict())
    assert found is not None
    for options in ({"arguments": {"checkpoint_path": "/etc/passwd"}}, {"arch": "vit_tiny_patch16_224"}):
        with pytest.raises(ValueError, match="none that resprune passes to timm"):
            families.build(replace(found, options={**found.options, **options}))
