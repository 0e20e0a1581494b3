"""Tiny real networks of every family, with random weights and random norms, and images for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resprune import families
from resprune.chain import Block, ResidualChain, assemble
from resprune.exporting import readback, verifying
from resprune.families import preact
from resprune.records import Architecture, Origin, Preprocessing
from resprune.stage_cost import vanishing_group
from resprune.trajectory import Batch

# For the commands that tests start: with a process on every core, two threads each are far slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).parents[2] / "shared"
CIFAR = SHARED / "data" / "cifar10"


def _torchvision(
    name: str, stages: tuple[str, ...], block: str, groups: int = 1, width: int = 64, **stem: Any
) -> Architecture:
    options = {"block": block, "groups": groups, "width_per_group": width, "in_channels": 3, "classes": 7}
    options |= {"stem_kernel": 7, "stem_stride": 2, "pool": "max"}
    options |= {"stride": "3x3"} if block == "bottleneck" else {}
    return Architecture("torchvision-resnet", name, stages, options | stem)


def _regnet(stages: tuple[str, ...], se_ratio: float | None, multiplier: float = 1.0) -> Architecture:
    options = {
        "stem": 8,
        "widths": [8, 16, 24, 32],
        "group_widths": [4, 4, 4, 8],
        "bottleneck_multipliers": [multiplier] * 4,
        "se_ratio": se_ratio,
        "in_channels": 3,
        "classes": 7,
    }
    return Architecture("torchvision-regnet", "regnet", stages, options)


def _cifar(stages: tuple[str, ...], shortcut: str, names: str = "akamaster", **others: Any) -> Architecture:
    widths = [8, 16, 32, 40][: len(stages)]
    options = {"names": names, "block": "basic", "stem": 8, "widths": widths, "in_channels": 3, "classes": 10}
    options |= {"shortcut": shortcut} | ({"padding": "centred"} if shortcut == "A" else {})
    return Architecture("cifar-resnet", "resnet", stages, options | others)


def _cifar_preact(stages: tuple[str, ...], block: str) -> Architecture:
    options = {"block": block, "stem": 8, "widths": [8, 16, 24], "in_channels": 3, "classes": 10}
    return Architecture("cifar-preact", "preact", stages, options)


def _timm(arch: str, stages: tuple[str, ...]) -> Architecture:
    return Architecture("timm", arch, stages, {"arch": arch, "in_channels": 3, "classes": 7})


ARCHITECTURES: dict[str, Architecture] = {
    "torchvision basic": _torchvision("basic", ("bb", "bbb", "b", "bb"), "basic"),
    "torchvision bottleneck": _torchvision("bottleneck", ("bb", "b", "bb", "b"), "bottleneck", width=16),
    "torchvision resnext": _torchvision("resnext", ("b", "bb", "b", "b"), "bottleneck", groups=4, width=4),
    "torchvision version 1": _torchvision(
        "v1", ("b", "bb", "b", "b"), "bottleneck", width=16, stride="1x1", in_channels=4
    ),
    "torchvision small stem": _torchvision(
        "cifar", ("bb", "b", "b", "b"), "basic", stem_kernel=3, stem_stride=1, pool="none", in_channels=1
    ),
    "torchvision regnet x": _regnet(("bb", "b", "bb", "b"), None, multiplier=0.5),
    "torchvision regnet y": _regnet(("b", "bb", "b", "bb"), 0.25),
    "cifar option A": _cifar(("bbb", "bb", "bbb"), "A"),
    "cifar option A, trailing": _cifar(("bb", "bb", "bb"), "A", padding="trailing", in_channels=1),
    "cifar option B": _cifar(("bb", "bb", "b", "bb"), "B"),
    "cifar bottleneck": _cifar(("bb", "bb", "b"), "B", block="bottleneck"),
    "cifar chenyaofo": _cifar(("bb", "bb", "bb"), "B", "chenyaofo"),
    "cifar open_lth": _cifar(("bb", "b", "bbb"), "B", "open_lth"),
    "cifar weiaicunzai": _cifar(("bb", "bb", "b", "b"), "B", "weiaicunzai", block="bottleneck"),
    "cifar preact": _cifar_preact(("bb", "bb", "bb"), "basic"),
    "cifar preact bottleneck": _cifar_preact(("bb", "bb", "bb"), "bottleneck"),
    "timm deep stem": _timm("resnet14t", ("bb", "bb", "b", "b")),
    "timm pre-activation": _timm("resnetv2_18d", ("bb", "bb", "b", "b")),
    "timm fixed depth": _timm("regnety_002", ("b", "b", "bbbb", "bbbbbbb")),
    "preact homogeneous": preact.architecture("homogeneous", [6], [8], in_channels=1, classes=10),
    "preact standard": preact.architecture("standard", [2, 2, 3], [8, 16, 32], in_channels=3, classes=10),
    "preact stem norm": preact.architecture(
        "stem norm", [2, 1, 2], [8, 12, 16], in_channels=1, classes=10, stem_norm=True
    ),
    "preact strided stem": preact.architecture("strided", [4], [8], in_channels=3, classes=10, stem_stride=2),
}


def randomise(network: nn.Module, seed: int) -> None:
    """Give a network random weights, and norms that are far from the identity, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan_in**-0.5)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                channels = layer.num_features
                layer.running_mean = 0.3 * torch.randn(channels, generator=generator)
                layer.running_var = 0.5 + torch.rand(channels, generator=generator)
                layer.weight.copy_(0.5 + torch.rand(channels, generator=generator))


def make_chain(architecture: Architecture, seed: int = 0) -> ResidualChain:
    """Return a chain with random weights; inputs are 32 x 32 whatever the family's recipe says."""
    network = families.build(architecture, device="cpu").requires_grad_(False)
    randomise(network, seed)
    channels = architecture.options.get("in_channels", 3)
    recipe = Preprocessing(channels, 32, 32, (0.5,) * channels, (0.25,) * channels, source="test")
    return assemble(network, architecture, recipe, Origin("test", "0" * 64, "test"))


LARGER = (
    "torchvision resnext",
    "torchvision version 1",
    "torchvision small stem",
    "timm deep stem",
    "timm pre-activation",
)
"""Take seconds where others take tenths, and differ from those in details."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.exhaustive if name in LARGER else ()) for name in ARCHITECTURES
    ]
)
def chain(request: pytest.FixtureRequest) -> ResidualChain:
    """One chain of every family and variant."""
    return make_chain(ARCHITECTURES[request.param])


@pytest.fixture
def images(chain: ResidualChain) -> torch.Tensor:
    """Five images for `chain`."""
    return make_images(chain, 5)


def make_images(chain: ResidualChain, count: int, seed: int = 1) -> torch.Tensor:
    """Return random input for a chain."""
    shape = (count, chain.preprocessing.channels, 32, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def switch_off(block: Block) -> None:
    """Let a block's branch give exactly zero."""
    with torch.no_grad():
        for parameter in vanishing_group(block):
            parameter.zero_()
        for layer in block.branch:
            if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any():
                assert layer.running_mean is not None
                layer.running_mean.zero_()


def divergence(chain: ResidualChain, other: ResidualChain, batches: Iterable[Batch]) -> float:
    """Return the mean over images of KL(chain || other) of the class probabilities, by its definition."""
    total, samples = 0.0, 0
    for images, _ in batches:
        with torch.inference_mode():
            p, q = (network(images).double().softmax(1) for network in (chain, other))
        total += float((p * (p / q).log()).sum())
        samples += len(images)
    return total / samples


@pytest.fixture
def cifar_file(tmp_path: Path) -> Path:
    """A state dict file of a small CIFAR ResNet with random weights, as a user has it."""
    path = tmp_path / "resnet.pth"
    torch.save({"state_dict": make_chain(ARCHITECTURES["cifar option A"]).network.state_dict()}, path)
    return path


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a class folder tree of random 32 x 32 images."""

    def write(
        name: str = "images", classes: int = 10, each: int = 2, mode: str = "RGB", size: int = 32
    ) -> Path:
        random = np.random.default_rng(0)
        for label in range(classes):
            folder = tmp_path / name / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(each):
                shape = (size, size, 3) if mode == "RGB" else (size, size)
                pixels = random.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads are slower than one for networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _read_back_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back in this process what tests save, since a new one takes seconds: see ``new_process``."""
    if request.node.get_closest_marker("new_process") is None:
        monkeypatch.setattr(
            verifying, "_run", lambda jobs, scratch: {job["logits"]: readback.answer(job) for job in jobs}
        )


def needs_shared(path: Path) -> pytest.MarkDecorator:
    """Skip a test where the shared folder is not beside the checkout."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not here")
