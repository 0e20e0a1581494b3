"""Small runs of training: a network, images that it learns in seconds, and images as training reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import make_chain
from PIL import Image
from torch import Tensor

from resprune.chain import ResidualChain
from resprune.data import TrainingData, open_training
from resprune.families import preact
from resprune.records import Architecture, Preprocessing, Recipe

CLASSES = 4
TINY: Architecture = preact.architecture("tiny", [2, 2], [4, 8], in_channels=3, classes=CLASSES)
RECIPE = Recipe(epochs=2, batch_size=16, rate=0.05, hold_out=0.25, warm_up=0.0, teacher_weight=0.5)

SMALL = Preprocessing(3, 32, 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
GREY = Preprocessing(1, 32, 32, mean=(0.3,), std=(0.3,))
LARGE = Preprocessing(3, 48, 48, SMALL.mean, SMALL.std, resize=56, interpolation="bicubic")
GREY_LARGE = Preprocessing(1, 48, 48, GREY.mean, GREY.std, resize=56)
FolderWriter = Callable[..., Path]


def tiny_chain(seed: int = 0, architecture: Architecture = TINY) -> ResidualChain:
    """Return a network with random weights for the images of `coloured`."""
    chain = make_chain(architecture, seed)
    recipe = Preprocessing(3, 16, 16, (0.5,) * 3, (0.25,) * 3, source="test")
    return replace(chain, preprocessing=recipe)


def coloured(folder: Path, each: int = 16) -> Path:
    """Write a class folder tree of noisy 16 x 16 images whose colour tells the class; returns it."""
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        place = folder / "train" / f"class{label}"
        place.mkdir(parents=True)
        colour = np.array([40 + 50 * label, 200 - 40 * label, 60 * (label % 2) + 60])
        for index in range(each):
            pixels = np.clip(colour + random.normal(0, 30, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


def opened(folder: Path, recipe: Recipe = RECIPE, **options: Any) -> TrainingData:
    """Open `coloured` images as `finetune` does."""
    chain = tiny_chain()
    return open_training(
        folder, chain.preprocessing, CLASSES, hold_out=recipe.hold_out, seed=recipe.seed, **options
    )


def same_tensors(one: ResidualChain, other: ResidualChain) -> bool:
    """Whether two chains have the same numbers, bit by bit, exits included."""
    mine, theirs = one.network.state_dict(), other.network.state_dict()
    pairs = [(mine[name], theirs[name]) for name in mine]
    pairs += [(one.exit_state[name], other.exit_state[name]) for name in one.exit_state]
    equal = mine.keys() == theirs.keys() and one.exit_state.keys() == other.exit_state.keys()
    return equal and all(torch.equal(a, b) for a, b in pairs)


def everything(data: TrainingData, epoch: int = 0) -> tuple[Tensor, list[int]]:
    """Return all training images of an epoch, and their labels."""
    pairs = [data.images[index, epoch] for index in range(len(data.images))]
    return torch.stack([image for image, _ in pairs]), [label for _, label in pairs]


def held_out(data: TrainingData) -> tuple[Tensor, list[int]]:
    """Return all images that are held out, and their labels."""
    assert data.held_out is not None
    batches = list(data.held_out)
    labels = [int(label) for _, labels in batches if labels is not None for label in labels]
    return torch.cat([images for images, _ in batches]), labels
