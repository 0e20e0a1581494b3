"""Images, labels and wishes that cannot be used end in one line that says where, and what to do."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import assert_helpful, refusal, run
from conftest import ARCHITECTURES, make_chain
from PIL import Image

from resprune import pipeline
from resprune.data import open_data
from resprune.errors import DataError, ResPruneError, UsageError
from resprune.records import Preprocessing

RECIPE = Preprocessing(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
GREY = Preprocessing(1, 32, 32, (0.5,), (0.25,))
FolderWriter = Callable[..., Path]


def png() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(path: Path, images: list[Any], labels: Any = (0, 1, 2, 3)) -> Path:
    columns = {"image": images} if labels is None else {"image": images, "label": list(labels)}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def embedded(*contents: bytes | None) -> list[Any]:
    return [{"bytes": content, "path": "a.png"} for content in contents]


GOOD = [png()] * 4


def refused(kind: type[ResPruneError], match: str, place: Path, recipe: Preprocessing = RECIPE) -> None:
    """Read all batches of a place for a network of ten classes, which has to fail."""
    with pytest.raises(kind, match=match) as caught:
        list(open_data(place, recipe, 10))
    assert_helpful(caught.value, kind, place)


@pytest.fixture
def flat_folder(image_folder: FolderWriter) -> Path:
    """Two images without labels."""
    return image_folder("flat", classes=1) / "class0"


# Folders of images


def test_a_place_without_images_is_refused(tmp_path: Path, cifar_file: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "classes" / "cat").mkdir(parents=True)
    (tmp_path / "table.csv").touch()
    refused(DataError, "no such file or folder; give a folder", tmp_path / "missing")
    refused(DataError, "no images found; give a folder", tmp_path / "empty")
    refused(DataError, "no images found; give a folder", tmp_path / "classes")
    refused(DataError, "csv is no data that can be read; give", tmp_path / "table.csv")
    refused(DataError, "cannot be read .File name too long", tmp_path / ("x" * 300))
    for place, message in {"missing": "no such file or folder", "empty": "no images found"}.items():
        line = refusal(3, "analyze", cifar_file, "--data", tmp_path / place)
        assert f"{tmp_path / place}: {message}" in line


def test_an_unknown_split_is_wrong_use(cifar_file: Path, image_folder: FolderWriter, tmp_path: Path) -> None:
    image_folder("divided/train")
    image_folder("divided/val")
    line = refusal(2, "evaluate", cifar_file, "--data", tmp_path / "divided", "--split", "test")
    assert "there is no split 'test'; choose from train, validation" in line
    line = refusal(2, "evaluate", cifar_file, "--data", tmp_path / "divided" / "val", "--split", "test")
    assert "there is no split 'test', the data is not divided; leave --split out" in line


@pytest.mark.parametrize(
    ("images", "recipe", "match"),
    [
        ({"size": 40}, RECIPE, "takes 32x32 pixels, 3 channels; got 40x40 pixels, 3 channels .RGB"),
        ({"mode": "L"}, RECIPE, "takes 32x32 pixels, 3 channels; got 32x32 pixels, 1 channels .L"),
        ({}, GREY, "takes 32x32 pixels, 1 channels; got 32x32 pixels, 3 channels .RGB"),
        ({"classes": 12}, RECIPE, "the labels have 12 classes, the network 10"),
        ({"classes": 9}, RECIPE, "the labels have 9 classes, the network 10"),
    ],
)
def test_images_of_another_network_are_refused(
    image_folder: FolderWriter, images: dict[str, Any], recipe: Preprocessing, match: str
) -> None:
    refused(DataError, match, image_folder(**images), recipe)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("cifar option A", {"size": 40}),
        ("cifar option A", {"mode": "L"}),
        ("cifar option A", {"classes": 12}),
        ("preact homogeneous", {"size": 28}),
    ],
)
def test_every_command_refuses_images_of_another_network(
    name: str, images: dict[str, Any], image_folder: FolderWriter, tmp_path: Path
) -> None:
    torch.save(make_chain(ARCHITECTURES[name]).network.state_dict(), tmp_path / "net.pt")
    place, out = image_folder(**images), tmp_path / "out"
    for command in (["analyze"], ["evaluate"], ["prune", "--depth", 2, "--out", out]):
        line = refusal(3, *command, tmp_path / "net.pt", "--data", place)
        assert line.startswith(f"resprune: {place}")
        assert "use the data that the network was trained on" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no known image format"),
        (b"junk", "no known image format"),
        (png()[:1000], "truncated"),
        (png()[:1000] + b"\0" + png()[1001:], "broken data stream"),
    ],
)
def test_a_damaged_image_is_refused_by_name(
    image_folder: FolderWriter, cifar_file: Path, content: bytes, match: str
) -> None:
    place = image_folder()
    image = place / "class7" / "1.png"
    image.write_bytes(content)
    refused(DataError, f"class7/1.png: the image cannot be decoded .*{match}.*; replace or remove it", place)
    assert f"{image}: the image cannot be decoded" in refusal(3, "evaluate", cifar_file, "--data", place)


# Parquet


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (embedded(*GOOD), (0, 1, 2, 10), r"row 3: label 10, but the network has the classes 0\.\.9"),
        (embedded(*GOOD), (0, -1, 2, 3), r"row 1: label -1, but"),
        (embedded(*GOOD), (0, 1, 2, None), r"row 3: label None, but"),
        (embedded(*GOOD), ("a", "b", "c", "d"), "column 'label' holds string, not class indices; store"),
        (embedded(*GOOD), (0.5, 1.0, 2.0, 3.0), "column 'label' holds double, not class indices; store"),
        (embedded(*GOOD), (True, False, True, True), "column 'label' holds bool, not class indices; store"),
        (embedded(*GOOD[:2], b"junk", *GOOD[3:]), (0, 1, 2, 3), "row 2: the image cannot be decoded"),
        (embedded(*GOOD[:3], GOOD[0][:200]), None, "row 3: the image cannot be decoded .*truncated"),
        (embedded(None, *GOOD[1:]), (0, 1, 2, 3), "row 0: the image has no bytes; embed"),
        (["a.png"] * 4, (0, 1, 2, 3), "row 0: the image has no bytes; embed"),
        ([], None, "no images found"),
    ],
)
def test_unusable_rows_are_refused_by_number(
    images: list[Any], labels: Any, match: str, tmp_path: Path
) -> None:
    refused(DataError, match, table(tmp_path / "images.parquet", images, labels))


def test_more_class_names_than_classes_are_refused(tmp_path: Path) -> None:
    names = {"info": {"features": {"label": {"names": list("abcdefghijkl")}}}}
    named = pa.table({"image": embedded(*GOOD), "label": [0, 1, 2, 3]})
    named = named.replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(named, tmp_path / "images.parquet")
    refused(DataError, "the labels have 12 classes, the network 10", tmp_path / "images.parquet")


def test_parquet_without_images_or_of_junk_is_refused(tmp_path: Path, cifar_file: Path) -> None:
    whole = table(tmp_path / "whole" / "a.parquet", embedded(*GOOD)).read_bytes()
    broken = bytearray(whole)
    broken[4:200] = random.Random(0).randbytes(196)  # the pages; the footer stays whole
    pq.write_table(pa.table({"picture": [b""], "label": [0]}), tmp_path / "renamed.parquet")
    contents = {"junk": b"junk" * 99, "empty": b"", "cut": whole[: len(whole) // 2], "broken": bytes(broken)}
    for name, content in contents.items():
        (tmp_path / f"{name}.parquet").write_bytes(content)
        refused(DataError, "no readable Parquet file .*; download", tmp_path / f"{name}.parquet")
        assert f"{name}.parquet" in refusal(3, "evaluate", cifar_file, "--data", tmp_path / f"{name}.parquet")
    refused(DataError, "no column 'image' .found picture, label.; use", tmp_path / "renamed.parquet")


# Without labels, without data


@pytest.mark.parametrize("parquet", [False, True])
def test_images_without_labels(cifar_file: Path, flat_folder: Path, tmp_path: Path, parquet: bool) -> None:
    place = table(tmp_path / "bare" / "a.parquet", embedded(*GOOD), None) if parquet else flat_folder
    assert "there are no labels" in refusal(3, "evaluate", cifar_file, "--data", place)
    result = run("analyze", cifar_file, "--data", place, "--json")
    assert result.exit_code == 0
    analysis = json.loads(result.stdout)
    rows = analysis["blocks"]
    assert analysis["final"]["accuracy"] is None
    assert analysis["final"]["loss"] is None
    assert all(row["exit_accuracy"] is None and row["exit_loss"] is None for row in rows)
    assert all(row["residual_norm"] > 0 and row["drop_agreement"] is not None for row in rows)


@pytest.mark.parametrize("command", ["analyze", "evaluate"])
def test_measuring_without_data_is_wrong_use(cifar_file: Path, command: str) -> None:
    assert "no data given; name images with --data" in refusal(2, command, cifar_file)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ([], "give a tolerance, a depth or blocks to remove, one of them, or a budget; --tol 1e-3, or"),
        (["--tol", 0.1, "--depth", 2], "--tol and --depth each say which blocks go; give one of them"),
        (["--tol", 0.1, "--remove", 2], "--tol and --remove each say"),
        (["--depth", 0, "--remove", ""], "--depth and --remove each say"),
        (
            ["--remove", "3,layer9.1"],
            "there is no block 'layer9.1', the network has the blocks 0..7: layer1.0, ",
        ),
        (["--remove", "3,8"], "block 8 is out of range, the network has the blocks 0..7: layer1.0, layer1.1"),
        (["--remove=-1"], "block -1 is out of range, the network has the blocks 0..7"),
        (["--remove", "layer3.2, 7"], "block 7 is named twice (layer3.2 and 7); name every block once"),
        (["--remove", ","], "there is no block '', the network has the blocks 0..7: layer1.0"),
        (["--remove", "3,,5"], "there is no block '', the network has the blocks 0..7"),
        (["--depth", 9], "depth 9 is out of range, the network has 8 blocks: 0 to 8 stay"),
        (["--remove", "3-5"], "layer3.2; name every block, with commas between"),
        (["--tol", 0.1], "no data given; name images with --data"),
        (["--depth", 2, "--device", "abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_an_impossible_wish_is_wrong_use(
    cifar_file: Path, tmp_path: Path, wish: list[object], message: str
) -> None:
    assert message in refusal(2, "prune", cifar_file, *wish, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tol", [-1, "nan", "inf"])
def test_an_impossible_tolerance_is_wrong_use(
    cifar_file: Path, flat_folder: Path, tmp_path: Path, tol: Any
) -> None:
    wish = ["--tol", tol, "--data", flat_folder, "--out", tmp_path / "out"]
    assert "the tolerance must be a number >= 0" in refusal(2, "prune", cifar_file, *wish)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="the tolerance must be a number >= 0"):
        pipeline.select(blocks=8, tol=float(tol))


def test_pruning_to_nowhere_is_wrong_use(cifar_file: Path) -> None:
    assert "no output folder given; add --out DIR, or --dry-run" in refusal(
        2, "prune", cifar_file, "--depth", 2
    )


@pytest.mark.parametrize(
    "arguments", [["--depth", "-1"], ["--depth", "two"], ["--sample", "3"], ["--samples", "0"]]
)
def test_what_the_parser_refuses_is_wrong_use(cifar_file: Path, arguments: list[str]) -> None:
    result = run("prune", cifar_file, *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr
    assert "Traceback" not in result.output


# Images of many kinds


def test_damaged_images_are_counted_and_named(image_folder: FolderWriter, cifar_file: Path) -> None:
    place = image_folder()
    for name in ("class3/0.png", "class7/1.png", "class9/0.png"):
        (place / name).write_bytes(b"junk")
    line = refusal(3, "evaluate", cifar_file, "--data", place)
    assert line == (
        f"resprune: {place}/class3/0.png: the image cannot be decoded (no known image format), nor can"
        f" 2 more of 20: {place}/class7/1.png, {place}/class9/0.png; replace or remove them"
    )
    for image in place.glob("*/*.png"):
        image.write_bytes(b"")
    refused(DataError, r"class0/0.png: .*nor can 19 more of 20: (\S+, ){5}\.\.\.; replace", place)


LARGE = Preprocessing(3, 32, 32, (0.5,) * 3, (0.25,) * 3, resize=36, interpolation="bilinear")


@pytest.mark.parametrize("recipe", [RECIPE, LARGE], ids=["small", "photographs"])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_images_of_more_than_8_bits_are_refused(recipe: Preprocessing, kind: Any, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 999, dtype=kind)).save(tmp_path / "deep.tiff")
    refused(
        DataError, r"deep.tiff: its pixels have more than 8 bits .*; convert it to 8 bits", tmp_path, recipe
    )


def test_a_rotation_in_the_metadata_is_not_applied_as_in_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets.folder import default_loader

    pixels = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=turned)
    ((images, _),) = open_data(tmp_path, LARGE, 10)
    stored = np.asarray(default_loader(str(tmp_path / "turned.jpg")))[2:34, 2:34]
    expected = torch.from_numpy((stored / 255.0 - 0.5) / 0.25).permute(2, 0, 1).float()
    torch.testing.assert_close(images[0], expected)


@pytest.mark.parametrize("each", [1, 3])
def test_one_image_and_one_class(each: int, image_folder: FolderWriter, tmp_path: Path) -> None:
    torch.save(make_chain(ARCHITECTURES["cifar option A"]).network.state_dict(), tmp_path / "net.pt")
    image_folder("whole", classes=1, each=each)
    flat = tmp_path / "whole" / "class0"
    result = run("analyze", tmp_path / "net.pt", "--data", flat, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["data"]["samples"] == each
    pruned = run(
        "prune", tmp_path / "net.pt", "--depth", 4, "--data", flat, "--out", tmp_path / "out", "--json"
    )
    assert pruned.exit_code == 0, pruned.output
    assert len(json.loads(pruned.stdout)["recovery"]) == (1 if each == 3 else 0)
    # One folder is one class, and the network has ten.
    line = refusal(3, "evaluate", tmp_path / "net.pt", "--data", tmp_path / "whole")
    assert "the labels have 1 classes, the network 10" in line
