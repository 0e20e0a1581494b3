"""The survey of training images: against numpy, on folders and Parquet, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from resprune.data import open_data, survey
from resprune.errors import DataError, UsageError
from resprune.fresh import fresh


def pixels_below(folder: Path) -> np.ndarray:
    """Return all images of a folder, (n, h, w) or (n, h, w, c), in units of [0, 1]."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))]) / 255


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_survey_of_class_folders(image_folder: Callable[..., Path], mode: str, channels: int) -> None:
    folder = image_folder(classes=4, each=3, mode=mode, size=24)
    found = survey(folder)
    pixels = pixels_below(folder).reshape(-1, channels)
    assert found.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert found.std == pytest.approx(pixels.std(axis=0), abs=1e-12)
    assert (found.classes, found.channels, found.height, found.width) == (4, channels, 24, 24)
    assert (found.spec, found.split, found.images, found.measured) == (str(folder), None, 12, 12)
    chain = fresh("paper-homogeneous-1", found, seed=0)
    ((images, labels),) = open_data(folder, chain.preprocessing, chain.classes)
    assert images.mean((0, 2, 3)) == pytest.approx(np.zeros(channels), abs=1e-5)
    assert images.std((0, 2, 3), correction=0) == pytest.approx(np.ones(channels), abs=1e-5)
    assert labels is not None
    assert labels.max() == 3


def test_a_survey_reads_the_training_split(image_folder: Callable[..., Path]) -> None:
    for split, each in (("test", 1), ("train", 3), ("validation", 2)):
        image_folder(f"data/{split}", classes=2, each=each, size=8)
    folder = image_folder("elsewhere", classes=2).parent / "data"
    assert [survey(folder).split, survey(folder).images] == ["train", 6]
    assert [survey(folder, split="val").split, survey(folder, split="val").images] == ["validation", 4]
    with pytest.raises(UsageError, match="no split 'other'; choose from test, train, validation"):
        survey(folder, split="other")


def test_a_survey_does_not_fall_back_on_the_test_images(image_folder: Callable[..., Path]) -> None:
    folder = image_folder("data/test", classes=2).parent
    with pytest.raises(UsageError, match="there is no split train, only test; give data that has it, or name"):
        survey(folder)
    assert survey(folder, split="test").images == 4


def test_the_shipped_images_can_be_surveyed() -> None:
    found = survey("demo", samples=50)
    assert (found.classes, found.channels, found.height, found.width) == (10, 1, 28, 28)
    assert (found.spec, found.images, found.measured) == ("demo", 2000, 50)


def test_a_sample_is_drawn_by_the_seed(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(classes=3, each=4, size=8)
    first, again, other = (survey(folder, samples=5, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.mean != other.mean
    assert (first.measured, first.images) == (5, 12)
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:5].tolist()
    expected = pixels_below(folder)[sorted(chosen)].reshape(-1, 3).mean(axis=0)
    assert first.mean == pytest.approx(expected, abs=1e-12)
    with pytest.raises(UsageError, match="samples must be at least 1"):
        survey(folder, samples=0)


def png(seed: int, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(path: Path, images: list[bytes], labels: list[int | None], names: list[str] | None = None) -> Path:
    rows = [{"bytes": image, "path": None} for image in images]
    image = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({"image": image, "label": pa.array(labels, pa.int64())})
    if names is not None:
        info = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(("names", "classes"), [(None, 8), (["a"] * 9, 9)])
def test_a_survey_of_parquet(tmp_path: Path, names: list[str] | None, classes: int) -> None:
    images = [png(k, size=(6, 9)) for k in range(3)]
    found = survey(parquet(tmp_path / "train-0.parquet", images, [7, 0, 2], names))
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images]).reshape(-1, 3) / 255
    assert found.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert found.std == pytest.approx(pixels.std(axis=0), abs=1e-12)
    assert (found.split, found.classes, found.height, found.width) == ("train", classes, 6, 9)


def test_images_with_a_palette_are_rgb(tmp_path: Path) -> None:
    found = survey(parquet(tmp_path / "x.parquet", [png(0, mode="P"), png(1)], [0, 1]))
    assert found.channels == 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([png(0), png(1, size=(8, 9))], [0, 1], r"row 1: 9x8 pixels, 3 channels, but other images have 8x8"),
        ([png(0), png(1, mode="L")], [0, 1], r"row 1: 8x8 pixels, 1 channel, but other images have 8x8.*3 cha"),
        ([png(0, mode="RGBA"), png(1)], [0, 1], r"row 0: 4 channels \(RGBA\), neither grey nor RGB; convert"),
        ([png(0), b"no image"], [0, 1], r"row 1: the image cannot be decoded"),
        ([png(0), png(1)], [0, None], r"row 1: label None is no class index.*; store the labels as integers"),
        ([png(0), png(1)], [0, -1], r"row 1: label -1 is no class index"),
        ([png(0), png(1)], [0, 2084071], r"row 1: label 2084071 is no class index"),
        ([png(0), png(1)], [0, 0], r"the images are all of one class"),
        ([], [], r"no images found in the split 'train'"),
    ],
)
def test_refusals(tmp_path: Path, images: list[bytes], labels: list[int | None], message: str) -> None:
    path = parquet(tmp_path / "train.parquet", images, labels)
    with pytest.raises(DataError, match=message):
        survey(path)


def test_labels_beyond_the_class_names_are_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "train.parquet", [png(0), png(1)], [0, 2], ["cat", "dog"])
    with pytest.raises(DataError, match=r"row 1: label 2 is no class index in 0\.\.1"):
        survey(path)


def test_a_constant_channel_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / name / "0.png")
    with pytest.raises(DataError, match="channel 0 has the same value in every pixel"):
        survey(tmp_path)


def test_images_without_labels_are_refused(image_folder: Callable[..., Path]) -> None:
    flat = image_folder(classes=1) / "class0"
    with pytest.raises(DataError, match="the images have no labels, and training needs them; give"):
        survey(flat)


def test_an_empty_split_and_no_folder_are_refused(tmp_path: Path, image_folder: Callable[..., Path]) -> None:
    folder = image_folder("data/test", classes=2).parent
    (folder / "train").mkdir()
    with pytest.raises(DataError, match="no images found in the split 'train'"):
        survey(folder)
    with pytest.raises(DataError, match="no such file or folder"):
        survey(tmp_path / "nowhere")
