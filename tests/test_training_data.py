"""Training images: divided and augmented as a function of the seed, however they are stored and read."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import assert_helpful
from PIL import Image
from torch import Tensor
from training import GREY_LARGE, LARGE, SMALL, FolderWriter, everything, held_out

from resprune.data import batches_of, normalise, open_data, open_training, random_access
from resprune.data.batches import _channels
from resprune.errors import DataError, ResPruneError, UsageError
from resprune.records import Preprocessing


def as_parquet(folder: Path, place: Path, shards: int = 3) -> Path:
    """Write the images of class folders as Parquet files, in the same order."""
    files = [
        (path, label) for label, sub in enumerate(sorted(folder.iterdir())) for path in sorted(sub.iterdir())
    ]
    rows = [{"image": {"bytes": path.read_bytes(), "path": path.name}, "label": label} for path, label in files]
    place.mkdir()
    cuts = np.linspace(0, len(rows), shards + 1).astype(int)
    for shard, (first, end) in enumerate(pairwise(cuts)):
        table = pa.Table.from_pylist(rows[first:end])
        pq.write_table(table, place / f"train-{shard:05d}.parquet", row_group_size=5)
    return place


def refused(kind: type[ResPruneError], match: str, place: Path | str, **options: Any) -> None:
    options = {"preprocessing": SMALL, "classes": 10} | options
    with pytest.raises(kind, match=match) as caught:
        open_training(place, **options)
    if kind is DataError:
        assert_helpful(caught.value, kind, Path(place))
    assert "\n" not in str(caught.value)


# What is trained on, what is held out


@pytest.mark.parametrize("parquet", [False, True])
@pytest.mark.parametrize("samples", [None, 23])
def test_the_held_out_images_and_the_others_are_all_there_are(
    image_folder: FolderWriter, tmp_path: Path, parquet: bool, samples: int | None
) -> None:
    place = image_folder(each=4)
    place = as_parquet(place, tmp_path / "parquet") if parquet else place
    options: dict[str, Any] = {"samples": samples, "seed": 3}
    ((images, labels),) = open_data(place, SMALL, 10, **options)
    assert labels is not None
    data = open_training(place, SMALL, 10, hold_out=0.25, augment="none", **options)
    trained, trained_labels = everything(data)
    held, held_labels = held_out(data)
    count = samples or 40
    assert (
        (len(trained), len(held)) == (data.summary.samples, round(count / 4)) == (count - len(held), len(held))
    )

    def multiset(pixels: Tensor, classes: list[int]) -> list[tuple[bytes, int]]:
        return sorted((image.numpy().tobytes(), label) for image, label in zip(pixels, classes, strict=True))

    # Normalised here by `normalise`, there by Batches, so this holds bit by bit or not at all.
    both = multiset(normalise(trained, SMALL), trained_labels) + multiset(held, held_labels)
    assert sorted(both) == multiset(images, labels.tolist())
    assert len({image for image, _ in both}) == count


def test_the_division_is_the_seeds(image_folder: FolderWriter) -> None:
    place = image_folder(each=4)

    def held(seed: int) -> Tensor:
        return held_out(open_training(place, SMALL, 10, seed=seed))[0]

    assert torch.equal(held(0), held(0))
    assert not torch.equal(held(0), held(1))
    assert open_training(place, SMALL, 10, hold_out=0).held_out is None


def test_only_the_training_split_is_looked_at(image_folder: FolderWriter, tmp_path: Path) -> None:
    image_folder("tree/train", each=2)
    (image_folder("tree/test", each=1) / "class0" / "0.png").write_bytes(b"junk")
    assert open_training(tmp_path / "tree", SMALL, 10).summary.split == "train"
    image_folder("late/val", each=1)
    image_folder("late/test", each=1)
    refused(UsageError, "there is no split train, only test, validation; give", tmp_path / "late")
    assert open_training(tmp_path / "late", SMALL, 10, split="val").summary.split == "validation"
    place = as_parquet(image_folder("plain"), tmp_path / "parts")
    for path in sorted(place.iterdir()):
        path.rename(path.with_name(path.name.replace("train", "part")))
    assert open_training(place, SMALL, 10).summary.samples == 18


def test_the_demo_may_be_trained_on() -> None:
    recipe = Preprocessing(1, 28, 28, (0.5,), (0.25,))
    data = open_training("demo", recipe, 10, samples=20)
    assert (data.summary.split, data.summary.samples, len(data.images)) == ("validation", 18, 18)


def test_parquet_and_class_folders_give_the_same(image_folder: FolderWriter, tmp_path: Path) -> None:
    folder = image_folder(each=3, size=60)
    parquet = as_parquet(folder, tmp_path / "parquet")
    wishes: list[dict[str, Any]] = [{"augment": "timm"}, {"augment": "none", "samples": 7}]
    for options in wishes:
        one, two = (open_training(place, LARGE, 10, seed=1, **options) for place in (folder, parquet))
        assert torch.equal(everything(one)[0], everything(two)[0])
        assert everything(one)[1] == everything(two)[1]
        assert torch.equal(held_out(one)[0], held_out(two)[0])


def test_small_images_are_counted_while_they_are_decoded(image_folder: FolderWriter) -> None:
    counts: list[int] = []
    open_training(image_folder(each=30), SMALL, 10, hold_out=0, on_images=counts.append)
    assert counts == [256, 44]


# Normalised


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_is_what_batches_do(channels_last: bool) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    pixels = pixels.contiguous(memory_format=torch.channels_last) if channels_last else pixels
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SMALL.mean, SMALL.std))
    result = normalise(pixels, SMALL)
    assert torch.equal(result, (pixels.float() / 255 - mean) / std)
    assert result.stride() == pixels.stride()


def test_what_normalise_divides_by_is_put_on_a_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _channels.cache_clear()
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    with torch.inference_mode():  # an evaluation comes first, as in every run
        first = normalise(pixels, SMALL)
    made = _channels(SMALL.std, pixels.device)
    assert not made.is_inference()
    monkeypatch.delattr(torch, "tensor")
    kept = pixels.clone()
    assert torch.equal(normalise(pixels, SMALL), first)
    assert torch.equal(pixels, kept)
    assert made.flatten().tolist() == pytest.approx(SMALL.std)


# Loaders


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and newer, with threads
@pytest.mark.parametrize("recipe", [SMALL, LARGE])
@pytest.mark.parametrize("augment", ["auto", "none"])
def test_workers_give_what_no_workers_give(
    image_folder: FolderWriter, tmp_path: Path, recipe: Preprocessing, augment: str
) -> None:
    folder = image_folder(size=32 if recipe is SMALL else 60)
    data = open_training(as_parquet(folder, tmp_path / "parquet"), recipe, 10, augment=augment)
    keys = [[(17, 0), (2, 3)], [(5, 1)], [(2, 3), (0, 0), (1, 9)], [(8, 8)]]
    state = torch.get_rng_state()
    alone, helped = (list(batches_of(data.images, keys, workers)) for workers in (0, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(batches_of(data.images, keys)) == len(alone) == len(helped) == len(keys)
    for batch, other, wanted in zip(alone, helped, keys, strict=True):
        for images, labels in (batch, other):
            assert torch.equal(images, torch.stack([data.images[key][0] for key in wanted]))
            assert labels.tolist() == [data.images[key][1] for key in wanted]
            assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
            assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*no accelerator:UserWarning")
def test_batches_are_pinned_where_that_is_asked_for(image_folder: FolderWriter) -> None:
    images, keys = open_training(image_folder(), SMALL, 10).images, [[(0, 0), (1, 0)], [(2, 0)]]
    plain, pinned = batches_of(images, keys), batches_of(images, keys, pin=True)
    assert (plain.pin_memory, pinned.pin_memory) == (False, True)
    for batch, other in zip(plain, pinned, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(batch, other, strict=True))
        assert other[0].is_contiguous(memory_format=torch.channels_last)
        assert all(tensor.is_pinned() == torch.cuda.is_available() for tensor in other)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photograph_is_one_clear_error(image_folder: FolderWriter, workers: int) -> None:
    place = image_folder(size=60)
    (place / "class3" / "1.png").write_bytes(b"junk")
    data = open_training(place, LARGE, 10, hold_out=0)

    def message() -> str:
        with pytest.raises(DataError) as caught:
            list(batches_of(data.images, [[(0, 0)], [(7, 0)]], workers))
        assert_helpful(caught.value, DataError, place)
        return str(caught.value)

    reason = "1.png: the image cannot be decoded (no known image format)"
    assert message().endswith(f"{reason}; replace or remove it")
    for name in ("class0/1.png", "class9/1.png"):
        (place / name).write_bytes(b"junk")
    told = rf"{re.escape(reason)}, nor can 2 more of 20: \S+/class0/1.png, \S+/class9/1.png; replace or"
    assert re.search(f"class3/{told}", message())
    (place / "class0" / "0.png").write_bytes(b"junk")
    refused(DataError, r"class0/0.png: .*, nor can 3 more of 20", place, preprocessing=LARGE, hold_out=0)


# Refusals


def test_images_that_cannot_be_trained_on_are_refused(image_folder: FolderWriter, tmp_path: Path) -> None:
    place = image_folder()
    refused(DataError, "no such file or folder; give", tmp_path / "missing")
    refused(DataError, "there are no labels to train with; use", place / "class0")
    refused(DataError, "the labels have 10 classes, the network 7; use", place, classes=7)
    refused(DataError, "takes 28x28 pixels", place, preprocessing=replace(SMALL, height=28, width=28))
    refused(DataError, "takes 4 channels, images have 1 or 3", place, preprocessing=replace(SMALL, channels=4))
    refused(DataError, "no images are left to train on, all 1 are held out; hold", place, samples=1)
    refused(DataError, "no images are left", place, hold_out=0.99)
    (tmp_path / "empty").mkdir()
    refused(DataError, "no images found", tmp_path / "empty")
    refused(UsageError, "there is no split 'train', the data is not divided", place, split="train")
    (place / "class3" / "1.png").write_bytes(b"junk")
    refused(DataError, "1.png: the image cannot be decoded", place, hold_out=0)


@pytest.mark.parametrize("label", [10, -1, None])
def test_a_wrong_label_is_refused_wherever_it_is(
    image_folder: FolderWriter, tmp_path: Path, label: int | None
) -> None:
    place = as_parquet(image_folder(), tmp_path / "parquet")
    last = max(place.iterdir())
    table = pq.read_table(last).to_pylist()
    table[-1]["label"] = label
    pq.write_table(pa.Table.from_pylist(table), last)
    refused(DataError, rf"{last.name}, row {len(table) - 1}: label {label}, but", place, samples=2)


def test_rows_without_images_or_labels_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    table = pa.table({"image": [file.getvalue(), None], "label": [0, 1]})
    pq.write_table(table, tmp_path / "train.parquet")
    refused(DataError, "train.parquet, row 1: the image has no bytes", tmp_path, hold_out=0)
    pq.write_table(table.drop_columns("label"), tmp_path / "train.parquet")
    refused(DataError, "there are no labels to train with", tmp_path)
    content = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(content[: len(content) // 2])
    refused(DataError, "no readable Parquet file", tmp_path)


def test_images_beyond_the_machines_memory_are_refused(
    image_folder: FolderWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder()
    place = as_parquet(folder, tmp_path / "parquet")
    monkeypatch.setattr(random_access, "machine_memory", lambda: 2 * 32 * 32 * 3 * 4)
    refused(DataError, "GiB; use class folders", place)
    assert open_training(place, SMALL, 10, samples=2).summary.samples == 1
    refused(DataError, "GiB; use fewer images", folder)


def test_damaged_training_images_are_counted_and_named(image_folder: FolderWriter) -> None:
    folder = image_folder()
    for name in ("class3/0.png", "class7/1.png"):
        (folder / name).write_bytes(b"junk")
    refused(
        DataError, r"class3/0.png: .*, nor can 1 more of 20: \S+/class7/1.png; replace or", folder, hold_out=0
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hold_out": 1.0}, "hold_out must be at least 0 and less than 1, got 1.0"),
        ({"hold_out": -0.1}, "hold_out must be"),
        ({"hold_out": float("nan")}, "hold_out must be"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"augment": "magic"}, "unknown augmentation 'magic'; choose from auto, none, crop, crop-flip, timm"),
        ({"auto_augment": "v0"}, "does not go with the augmentation 'crop-flip'; leave it out"),
        ({"augment": "none", "auto_augment": "v0"}, "does not go with the augmentation 'none'"),
        ({"preprocessing": LARGE, "augment": "crop"}, "at most 64x64 pixels .*; choose 'timm' or 'none'"),
        (
            {"preprocessing": LARGE, "auto_augment": "magic"},
            "timm knows no auto_augment 'magic'; choose from rand",
        ),
        ({"preprocessing": LARGE, "auto_augment": "rand-magic"}, "timm knows no auto_augment 'rand-magic'"),
        ({"preprocessing": LARGE, "auto_augment": "rand-n2x"}, "timm knows no auto_augment 'rand-n2x'"),
        ({"preprocessing": LARGE, "auto_augment": "v0-magic"}, "timm knows no auto_augment 'v0-magic'"),
        ({"preprocessing": GREY_LARGE, "auto_augment": "v0"}, "auto_augment is for images in colour"),
    ],
)
def test_an_impossible_wish_is_wrong_use(
    image_folder: FolderWriter, options: dict[str, Any], match: str
) -> None:
    refused(UsageError, match, image_folder(), **options)
