"""Data specs become the right images in the right order, prepared as the recipe says."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms

from resprune.data import CHOICE_FIRST, TEST_FIRST, identity, open_data
from resprune.records import Preprocessing

SMALL = Preprocessing(3, 32, 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
IMAGENET = Preprocessing(
    3, 48, 48, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=56, interpolation="bilinear"
)
PHOTOGRAPHS = {"a": ((90, 70), "RGB"), "b": ((61, 99), "L"), "c": ((57, 57), "RGBA"), "d": ((200, 60), "CMYK")}


def png(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(path: Path, count: int, first: int = 0, labels: bool = True) -> Path:
    rows = [{"image": {"bytes": png(k), "path": None}, "label": k % 10} for k in range(first, first + count)]
    table = pa.Table.from_pylist(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if labels else table.drop_columns("label"), path, row_group_size=7)
    return path


def test_photographs_are_prepared_as_torchvision_prepares_them(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, ((width, height), mode) in PHOTOGRAPHS.items():
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / ("x.jpg" if mode == "CMYK" else "x.png"))
    reference: Any = transforms.Compose(
        [
            transforms.Resize(56),
            transforms.CenterCrop(48),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
    ((images, labels),) = open_data(tmp_path, IMAGENET, classes=4)
    paths = [next((tmp_path / name).iterdir()) for name in PHOTOGRAPHS]
    expected = torch.stack([reference(Image.open(path).convert("RGB")) for path in paths])
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3]
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_small_images_are_normalised_and_nothing_else(tmp_path: Path) -> None:
    ((images, _),) = open_data(parquet(tmp_path / "x.parquet", 3), SMALL, classes=10)
    with Image.open(io.BytesIO(png(1))) as image:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
    expected = (pixels - torch.tensor(SMALL.mean)[:, None, None]) / torch.tensor(SMALL.std)[:, None, None]
    torch.testing.assert_close(images[1], expected)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batches_cover_the_shards_in_order(tmp_path: Path, batch_size: int) -> None:
    parquet(tmp_path / "test-00000-of-00002.parquet", 9)
    parquet(tmp_path / "test-00001-of-00002.parquet", 8, first=9)
    parquet(tmp_path / "train-00000-of-00001.parquet", 4)
    batches = open_data(tmp_path, SMALL, classes=10, split="test", batch_size=batch_size)
    assert batches.summary.samples == 17
    for _ in range(2):  # any number of times
        labels = torch.cat([labels for _, labels in batches if labels is not None])
        assert labels.tolist() == [k % 10 for k in range(17)]
    assert max(len(images) for images, _ in batches) == min(batch_size, 17)


def test_a_sample_is_drawn_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", 10)

    def labels(seed: int) -> list[int]:
        ((_, found),) = open_data(path, SMALL, classes=10, samples=4, seed=seed)
        assert found is not None
        return found.tolist()

    assert labels(0) == labels(0) == sorted(labels(0))
    assert len({tuple(labels(seed)) for seed in range(5)}) > 1
    assert open_data(path, SMALL, classes=10, samples=99).summary.samples == 10


@pytest.mark.parametrize("layout", ["class folders", "Parquet"])
def test_images_are_drawn_in_an_order_of_their_own(
    image_folder: Callable[..., Path], tmp_path: Path, layout: str
) -> None:
    place = image_folder(each=12) if layout == "class folders" else parquet(tmp_path / "x.parquet", 120)
    batches = open_data(place, SMALL, classes=10, samples=100, batch_size=20)
    everything = list(batches)
    labels = torch.cat([labels for _, labels in everything if labels is not None])
    whole = list(zip(torch.cat([images for images, _ in everything]), labels, strict=True))
    drawn = batches.drawn(50, seed=0)
    assert drawn.summary.samples == len(drawn.source) == 50
    found = list[int]()
    for images, labels in drawn:
        assert labels is not None
        assert len(set(labels.tolist())) > 4  # of the ten classes, whatever the order of the files
        for image, label in zip(images, labels, strict=True):
            (where,) = (k for k, (other, _) in enumerate(whole) if torch.equal(image, other))
            assert whole[where][1] == label
            found.append(where)
    assert len(set(found)) == 50
    assert found != sorted(found)

    def order(count: int, seed: int) -> list[str]:
        return [item.where for item in batches.drawn(count, seed).source]

    assert order(50, 0) == order(50, 0) == order(99, 0)[:50]
    assert order(50, 0) != order(50, 1)
    assert len(order(1000, 0)) == 100


def test_splits_are_looked_for_in_the_order_of_the_purpose(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        parquet(tmp_path / "all" / f"{split}-0.parquet", 2)
    for split in ("train", "test"):
        parquet(tmp_path / "two" / "data" / f"{split}-0.parquet", 2)

    def chosen(folder: str, order: tuple[str, ...]) -> str | None:
        return open_data(tmp_path / folder, SMALL, classes=10, order=order).summary.split

    assert chosen("all", CHOICE_FIRST) == "validation"
    assert chosen("two", CHOICE_FIRST) == "train"
    assert chosen("all", TEST_FIRST) == chosen("two", TEST_FIRST) == "test"
    assert open_data(tmp_path / "all", SMALL, classes=10, split="val").summary.split == "validation"


def test_class_folders_below_split_folders(image_folder: Callable[..., Path], tmp_path: Path) -> None:
    image_folder("tree/train", each=2)
    image_folder("tree/val", each=1)
    batches = open_data(tmp_path / "tree", SMALL, classes=10)
    assert (batches.summary.split, batches.summary.samples) == ("validation", 10)
    assert open_data(tmp_path / "tree", SMALL, classes=10, split="train").summary.samples == 20


def test_images_without_labels(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"{k}.png").write_bytes(png(k))
    batches = open_data(tmp_path, SMALL, classes=10)
    assert [(len(images), labels) for images, labels in batches] == [(3, None)]
    unlabelled = parquet(tmp_path / "sub" / "x.parquet", 2, labels=False)
    assert not open_data(unlabelled, SMALL, classes=10).labelled


# Which images they were


def test_the_same_files_have_the_same_hash_wherever_they_lie(tmp_path: Path) -> None:
    for place in ("here", "there/far"):
        for label in ("cat", "dog"):
            (tmp_path / place / "val" / label).mkdir(parents=True)
            (tmp_path / place / "val" / label / "0.png").write_bytes(png(1))
    (tmp_path / "here" / "test" / "cat").mkdir(parents=True)
    here, there = tmp_path / "here", tmp_path / "there" / "far"
    lines = "".join(
        f"{len(png(1))} {hashlib.sha256(png(1)).hexdigest()} {name}\n" for name in ("cat/0.png", "dog/0.png")
    )
    found = open_data(here, SMALL, 2, split="val").summary
    assert (found.sha256, found.sha256_of) == (hashlib.sha256(lines.encode()).hexdigest(), "names and bytes")
    assert open_data(there / "val", SMALL, 2, samples=1).summary.sha256 == found.sha256
    (there / "val" / "dog" / "0.png").write_bytes(png(2))
    changed = open_data(there, SMALL, 2).summary.sha256
    (there / "val" / "dog").rename(there / "val" / "elk")
    assert len({found.sha256, changed, open_data(there, SMALL, 2).summary.sha256}) == 3


def test_large_files_are_told_apart_by_their_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "images.parquet", 3)
    whole = open_data(file, SMALL, 4).summary
    size = file.stat().st_size
    monkeypatch.setattr(identity, "MOST_BYTES", size - 1)
    found = open_data(file, SMALL, 4).summary
    expected = hashlib.sha256(f"{size} - images.parquet\n".encode()).hexdigest()
    assert (found.sha256, found.sha256_of) == (expected, "names and sizes")
    assert whole.sha256 != found.sha256
