"""What a reader of the documentation has: checkpoints and images under the names that its commands use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from conftest import ARCHITECTURES, randomise
from documents import snippets
from PIL import Image
from studies import analysis
from torch import nn

import resprune
from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.records import Architecture, Origin, Preprocessing

CLASSES = 10
SIDE = 32


def _torchvision(stages: tuple[str, ...], block: str, **options: object) -> Architecture:
    plain = ARCHITECTURES[f"torchvision {block}"]
    return Architecture(plain.family, "resnet", stages, {**plain.options, "classes": CLASSES, **options})


def _cifar() -> Architecture:
    plain = ARCHITECTURES["cifar option A"]
    return Architecture(plain.family, "resnet", ("bbb", "bbb", "bbb"), plain.options)


RESNET50 = _torchvision(("bbbbbb", "bbbb", "bbbb", "b"), "bottleneck", width_per_group=16)
RESNET10 = _torchvision(("bb", "b", "b", "b"), "basic")


def chain_of(architecture: Architecture) -> ResidualChain:
    """Return a network with random weights of which every fourth block does nothing, as does the last one."""
    network = families.build(architecture, device="cpu").requires_grad_(False)
    randomise(network, 0)
    recipe = Preprocessing(3, SIDE, SIDE, (0.5,) * 3, (0.25,) * 3, source="test")
    chain = assemble(network, architecture, recipe, Origin("test", "0" * 64, "test"))
    for block in chain.blocks:
        if block.index % 4 == 3 or block.index == chain.depth - 1:
            last = [layer for layer in block.branch.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
            last.weight.zero_()
            assert last.bias is not None
            last.bias.zero_()
    return chain


def _file(architecture: Architecture) -> Callable[[Path], None]:
    return lambda path: torch.save({"state_dict": chain_of(architecture).network.state_dict()}, path)


def _folder(architecture: Architecture, *removed: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        chain = chain_of(architecture)
        resprune.save(resprune.prune(chain, resprune.select(remove=removed, blocks=chain.depth)), path)

    return write


def _images(path: Path) -> None:
    random = np.random.default_rng(0)
    for split, each in (("train", 4), ("test", 1)):
        for label in range(CLASSES):
            folder = path / split / f"class{label}"
            folder.mkdir(parents=True)
            for index in range(each):
                pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


def _configuration(path: Path) -> None:
    """Write the configuration of docs/ci.md, with the names of this module."""
    text = next(own.text for own in snippets("docs/ci.md") if own.language == "yaml")
    path.write_text(text.replace("runs/", "").replace("data/", ""), encoding="utf-8")


def _analysis(seed: int) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(analysis(seed=seed)), encoding="utf-8")


BELONGINGS: dict[str, Callable[[Path], object]] = {
    "resnet50.pth": _file(RESNET50),
    "resnet.pth": _file(_cifar()),
    "resnet32.th": _file(_cifar()),
    "resnet20-cifar10.th": _file(_cifar()),
    "pruned": _folder(RESNET10, 1),
    "tuned": _folder(_cifar(), 3),
    "sub": _folder(_cifar(), 3, 5, 6, 7, 8),
    "imagenet": _images,
    "cifar10": _images,
    "images": _images,
    "resprune.yaml": _configuration,
    "before.json": _analysis(0),
    "after.json": _analysis(1),
}
"""Names in the documentation -> a function that writes something small that stands for it."""


def hand_over(name: str, store: Path, place: Path) -> None:
    """Put one of the reader's belongings into a folder, made anew only where the store has none."""
    stored = store / name
    if not stored.exists():
        BELONGINGS[name](stored)
    if stored.is_dir():
        shutil.copytree(stored, place / name)
    else:
        shutil.copy(stored, place / name)
