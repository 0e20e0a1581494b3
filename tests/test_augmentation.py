"""Augmentation of training images: a function of seed, epoch and index."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from training import GREY, GREY_LARGE, LARGE, SMALL, FolderWriter, everything

from resprune.data import normalise, open_data, open_training
from resprune.data.augmentation import item_seed
from resprune.records import Preprocessing


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (SMALL, {}),
        (SMALL, {"augment": "timm", "auto_augment": "v0"}),
        (GREY, {}),
        (LARGE, {}),
        (LARGE, {"auto_augment": "rand-m9-mstd0.5-inc1"}),
        (LARGE, {"auto_augment": "augmix-m3-w3"}),
        (GREY_LARGE, {}),
    ],
)
def test_an_image_is_a_function_of_seed_epoch_and_index(
    image_folder: FolderWriter, recipe: Preprocessing, options: dict[str, Any]
) -> None:
    place = image_folder(mode="RGB" if recipe.channels == 3 else "L", size=32 if recipe.resize is None else 60)
    data, again = (open_training(place, recipe, 10, **options) for _ in range(2))
    generators = (random.seed, np.random.seed, torch.manual_seed)
    for seed in generators:
        seed(4)
    before, _ = everything(data, epoch=1)
    for seed in generators:
        seed(5)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    backwards = [again.images[index, 1][0] for index in reversed(range(len(again.images)))]
    assert torch.equal(before, torch.stack(backwards[::-1]))
    assert random.getstate() == states[0]
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert torch.equal(torch.get_rng_state(), states[2])
    assert before.dtype == torch.uint8
    assert before.shape[1:] == (recipe.channels, recipe.height, recipe.width)
    assert not torch.equal(before, everything(data, epoch=2)[0])
    reseeded = replace(data, images=replace(data.images, seed=1))
    assert not torch.equal(before, everything(reseeded, epoch=1)[0])


def test_a_crop_is_a_window_of_the_padded_image(image_folder: FolderWriter) -> None:
    place = image_folder()
    plain, _ = everything(open_training(place, SMALL, 10, augment="none"))
    windows: set[tuple[int, int, bool]] = set()
    for augment in ("crop", "crop-flip", "auto"):
        data = open_training(place, SMALL, 10, augment=augment)
        for index, image in enumerate(plain):
            padded = torch.zeros(3, 40, 40, dtype=torch.uint8)
            padded[:, 4:36, 4:36] = image
            found = {
                (y, x, flipped)
                for y in range(9)
                for x in range(9)
                for flipped in (False, True)
                for window in [padded[:, y : y + 32, x : x + 32]]
                if torch.equal(window.flip(2) if flipped else window, data.images[index, 0][0])
            }
            assert len(found) == 1
            windows |= found if augment != "crop" else set()
            assert augment != "crop" or not found.pop()[2]
    assert {flipped for _, _, flipped in windows} == {False, True}
    assert len(windows) > 9


@pytest.mark.parametrize("policy", ["rand-m10-n8-inc1", "rand-m10-n8", "v0r", "augmix-m10"])
def test_a_policy_of_any_strength_gives_images(policy: str, image_folder: FolderWriter) -> None:
    recipe = replace(LARGE, resize=None, height=48, width=48)
    data = open_training(image_folder(size=48), recipe, 10, augment="timm", auto_augment=policy, hold_out=0)
    for epoch in range(20):
        images, _ = everything(data, epoch)
        assert images.shape[1:] == (3, 48, 48)


def test_grey_images_are_not_mirrored(image_folder: FolderWriter) -> None:
    place = image_folder(mode="L")
    auto, crop = (open_training(place, GREY, 10, augment=augment) for augment in ("auto", "crop"))
    for epoch in range(3):
        assert torch.equal(everything(auto, epoch)[0], everything(crop, epoch)[0])


def test_large_images_without_augmentation_are_as_for_inference(image_folder: FolderWriter) -> None:
    place = image_folder(size=60)
    data = open_training(place, LARGE, 10, augment="none", hold_out=0)
    ((images, _),) = open_data(place, LARGE, 10)
    assert torch.equal(normalise(everything(data)[0], LARGE), images)


def test_seeds_differ_in_every_number() -> None:
    seeds = {item_seed(s, e, i) for s in (-1, 0, 1, 11) for e in range(12) for i in range(112)}
    assert len(seeds) == 4 * 12 * 112
    assert all(0 <= seed < 2**64 for seed in seeds)


@pytest.mark.parametrize("recipe", [SMALL, LARGE])
def test_plain_images_are_those_of_inference(image_folder: FolderWriter, recipe: Preprocessing) -> None:
    folder = image_folder(size=32 if recipe is SMALL else 60)
    data, unchanged = (open_training(folder, recipe, 10, augment=name) for name in ("auto", "none"))
    pairs = [
        [images[index, 3] for index in range(len(images))] for images in (data.images.plain, unchanged.images)
    ]
    for (image, label), (expected, other) in zip(*pairs, strict=True):
        assert torch.equal(image, expected)
        assert label == other
    assert not torch.equal(data.images[0, 3][0], pairs[0][0][0])  # which the data themselves go on to augment
