"""torch/, hfds/ and wds/ give what the same images give as class folders and Parquet files."""

from __future__ import annotations

import io
import json
import pickle
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import assert_helpful, refusal, run
from PIL import Image
from webdataset.writer import TarWriter

from resprune.data import open_data, open_training, survey
from resprune.data.readers import find
from resprune.errors import DataError, ResPruneError, UsageError
from resprune.records import Preprocessing

RECIPE = Preprocessing(3, 32, 32, (0.5,) * 3, (0.25,) * 3)
GREY = Preprocessing(1, 32, 32, (0.5,), (0.25,))
NAMES = tuple(f"class{k}" for k in range(10))
COUNT = {"train": 40, "test": 20}


def pixels(split: str) -> np.ndarray:
    return np.random.default_rng(len(split)).integers(0, 256, (COUNT[split], 32, 32, 3), dtype=np.uint8)


def labels(split: str) -> list[int]:
    return [k % 10 for k in range(COUNT[split])]


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_parquet(root: Path) -> str:
    for split in COUNT:
        images = [{"bytes": png(image), "path": None} for image in pixels(split)]
        pq.write_table(pa.table({"image": images, "label": labels(split)}), root / f"{split}-0.parquet")
    return str(root)


def write_cifar10(root: Path) -> str:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    train = {"data": pixels("train"), "labels": labels("train")}
    parts = {f"data_batch_{k + 1}": slice(k * 8, k * 8 + 8) for k in range(5)}
    files = {name: {key: value[part] for key, value in train.items()} for name, part in parts.items()}
    files["test_batch"] = {"data": pixels("test"), "labels": labels("test")}
    for entry in files.values():
        entry["data"] = entry["data"].transpose(0, 3, 1, 2).reshape(len(entry["labels"]), -1)
    for name, entry in {**files, "batches.meta": {"label_names": list(NAMES)}}.items():
        (folder / name).write_bytes(pickle.dumps(entry))
    return f"torch/cifar10:{root}"


def write_folders(root: Path) -> str:
    for split in COUNT:
        for number, (image, label) in enumerate(zip(pixels(split), labels(split), strict=True)):
            path = root / split / NAMES[label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
    return str(root)


def write_saved(root: Path) -> str:
    classes = datasets.ClassLabel(names=list(NAMES))
    features = datasets.Features({"img": datasets.Image(), "fine_label": classes})
    parts: Any = {}
    for split in COUNT:
        images = [{"bytes": png(image), "path": None} for image in pixels(split)]
        columns = {"img": images, "fine_label": labels(split)}
        parts[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(root))
    return f"hfds/{root}"


def write_shards(root: Path, name: str = "images-{split}-{part}.tar") -> str:
    root.mkdir(exist_ok=True)
    for split, count in COUNT.items():
        for part, first in enumerate((0, count // 2)):
            with TarWriter(str(root / name.format(split=split, part=part))) as file:
                for k in range(first, first + count // 2):
                    file.write({"__key__": f"{k:03}", "png": png(pixels(split)[k]), "cls": labels(split)[k]})
    return f"wds/{root}"


WRITERS: dict[str, Callable[[Path], str]] = {
    "cifar10": write_cifar10,
    "image_folder": lambda root: f"torch/image_folder:{write_folders(root)}",
    "imagefolder of hfds": lambda root: f"hfds/{write_folders(root)}",
    "parquet of hfds": lambda root: f"hfds/{write_parquet(root)}",
    "saved to disk": write_saved,
    "shards": write_shards,
}
BY_CLASS = ("image_folder", "imagefolder of hfds")
"""Sorted by class, as folders are; all others are in the order in which they were written."""


@dataclass
class Written:
    """The same images twice: as a plain spec, and as one with a prefix."""

    name: str
    plain: str
    spec: str


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    # torchvision knows the sums of the real CIFAR-10 only.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())


@pytest.fixture(params=list(WRITERS))
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    for name in ("plain", "prefixed"):
        (tmp_path / name).mkdir()
    plain = (write_folders if request.param in BY_CLASS else write_parquet)(tmp_path / "plain")
    return Written(request.param, plain, WRITERS[request.param](tmp_path / "prefixed"))


def all_of(
    spec: str | Path, recipe: Preprocessing = RECIPE, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    ((images, labels),) = open_data(spec, recipe, 10, batch_size=100, **options)
    assert labels is not None
    return images, labels


def test_the_same_images_come_in_the_same_order(written: Written) -> None:
    train: dict[str, Any] = {"split": "train"}
    test: dict[str, Any] = {"order": ("validation", "test")}
    for options in (train, {**train, "samples": 7, "seed": 3}, test):
        (expected, classes), (images, got) = all_of(written.plain, **options), all_of(written.spec, **options)
        assert torch.equal(images, expected)
        assert got.tolist() == classes.tolist()
    _, source = find(written.spec, "test", ())
    assert source.label_names == (None if written.name in ("shards", "parquet of hfds") else NAMES)
    assert {type(item.label) for item in source} == {int}


def test_training_images_are_the_same(written: Written) -> None:
    plain, prefixed = (open_training(spec, RECIPE, 10, seed=4) for spec in (written.plain, written.spec))
    assert prefixed.labelled
    assert prefixed.summary.split == "train"
    assert len(prefixed.images) == len(plain.images) == 36
    for index in range(36):
        (image, label), (expected, wanted) = prefixed.images[index, 1], plain.images[index, 1]
        assert torch.equal(image, expected)
        assert label == wanted
    assert survey(written.spec).mean == survey(written.plain).mean
    assert survey(written.spec).classes == 10


@pytest.mark.parametrize("written", ["cifar10", "saved to disk", "shards"], indirect=True)
def test_commands_take_them(written: Written, cifar_file: Path, tmp_path: Path) -> None:
    told = [
        json.loads(run("evaluate", cifar_file, "--data", spec, "--json").stdout)
        for spec in (written.plain, written.spec)
    ]
    assert told[1]["accuracy"] == told[0]["accuracy"]
    assert told[1]["loss"] == told[0]["loss"]
    assert told[1]["data"]["spec"] == written.spec
    words = ("--steps", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu", "--out", tmp_path / "out")
    result = run("finetune", cifar_file, "--data", written.spec, *words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_mnist_is_grey(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        images, classes = pixels(split)[..., 0], np.array(labels(split), np.uint8)
        for array, kind in ((images, "images-idx3"), (classes, "labels-idx1")):
            head = np.array([0x0800 + array.ndim, *array.shape], ">i4").tobytes()
            (folder / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
    images, got = all_of(f"torch/mnist:{tmp_path}", GREY)
    expected = (torch.from_numpy(pixels("test")[:, None, :, :, 0]).float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(images, expected)
    assert got.tolist() == labels("test")
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"\0" * 10)
    refused(DataError, "no readable MNIST", f"torch/mnist:{tmp_path}")


def test_a_list_of_shards_names_the_splits(tmp_path: Path) -> None:
    root = tmp_path / "shards"
    spec = write_shards(root, name="{split}er{part}.tar")
    assert find(spec, None, ("test",))[0] is None  # the names say nothing
    listed = {"val": ["tester1.tar"], "train": ["trainer0.tar", "trainer1.tar"]}
    told = {"splits": {name: {"filenames": files} for name, files in listed.items()}}
    (root / "_info.json").write_text(json.dumps(told))
    name, source = find(spec, None, ("test", "validation"))
    assert (name, len(source)) == ("validation", 10)
    assert len(find(spec, "train", ())[1]) == 40
    (root / "trainer1.tar").unlink()
    refused(DataError, "no such shard", spec, place=root / "trainer1.tar")
    (root / "_info.json").write_text('{"splits": {"train": {"filenames": "x.tar"}}}')
    refused(DataError, "lists no shards", spec, place=root / "_info.json")


def test_a_path_is_never_taken_for_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folders(Path("torch") / "mine")
    refused(UsageError, "no data set 'mine' .* choose from cifar10", "torch/mine")
    for spec in ("./torch/mine", Path("torch/mine")):
        assert len(all_of(spec)[1]) == 20


def refused(
    kind: type[ResPruneError], match: str, spec: str, *, place: Path | None = None, **options: Any
) -> None:
    with pytest.raises(kind, match=match) as caught:
        list(open_data(spec, RECIPE, 10, **options))
    assert_helpful(caught.value, kind, place or spec)


@pytest.mark.parametrize("writer", ["cifar10", "saved to disk", "shards"])
def test_splits_that_are_not_there(writer: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    spec = WRITERS[writer](tmp_path / "x")
    refused(UsageError, "no split 'val'; choose from test, train", spec, split="val")
    assert find(spec, None, ("validation", "train", "test"))[0] == "train"
    with pytest.raises(UsageError, match="no split validation, only test, train"):
        find(spec, None, ("validation",), strict=True)


@pytest.mark.parametrize(
    ("spec", "kind", "match"),
    [
        ("torch/", UsageError, "no data set ''"),
        ("torch/cifar11:x", UsageError, "no data set 'cifar11'"),
        ("torch/cifar10:missing", DataError, "no such folder; write torch/cifar10:FOLDER"),
        ("torch/cifar10:.", DataError, "no readable CIFAR10"),
        ("torch/imagenet:empty", DataError, "no images found"),
        ("hfds/", UsageError, "nothing is named"),
        ("hfds/./missing", DataError, "no such folder, and no name of the hub"),
        ("hfds/imagefolder", DataError, "no such folder, and no name of the hub"),
        ("hfds/empty", DataError, "datasets cannot read it"),
        ("hfds/nobody/nothing", DataError, "not to be had from the hub"),
        ("wds/", UsageError, "nothing is named"),
        ("wds/missing", DataError, "no such file or folder"),
        ("wds/empty", DataError, "no shards"),
    ],
)
def test_what_is_not_there(
    spec: str, kind: type[ResPruneError], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    refused(kind, match, spec)


@pytest.mark.parametrize(("module", "prefix"), [("datasets", "hfds"), ("webdataset", "wds")])
def test_a_missing_extra_is_named(
    module: str, prefix: str, tmp_path: Path, cifar_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "x")
    for name in [name for name in sys.modules if name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    line = refusal(2, "evaluate", cifar_file, "--data", f"{prefix}/{tmp_path / 'x'}")
    assert f"needs {module}, which is not installed; pip install 'resprune[data]'" in line


def shard(path: Path, *files: tuple[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return f"wds/{path}"


GOOD = png(pixels("test")[0])


def test_samples_are_checked(tmp_path: Path) -> None:
    files = tmp_path / "x.tar"
    spec = shard(files, ("a.png", GOOD), ("a.cls", b"3"), ("b.png", GOOD), ("b.cls", b"10"))
    refused(DataError, "sample b: label 10", spec, place=files)
    spec = shard(files, ("a.png", GOOD), ("a.cls", b"3"), ("b.png", GOOD))
    refused(DataError, "sample b: label None", spec, place=files)
    spec = shard(files, ("a.png", GOOD), ("a.cls", b"cat"))
    refused(DataError, "the label b'cat' is no class index", spec, place=files)
    spec = shard(files, ("a.txt", b""), ("a.cls", b"1"))
    refused(DataError, "no image .found txt, cls", spec, place=files)
    bad = [(f"{k}.png", b"damaged") for k in range(3)]
    spec = shard(files, ("a.png", GOOD), *bad)
    refused(DataError, "cannot be decoded .*, nor can 2 more of 4: .*sample 1, .*sample 2", spec, place=files)
    spec = shard(files, ("__meta__", b"x"), ("x/a.png", GOOD), ("x/b.JPG", GOOD))
    ((images, none),) = open_data(spec, RECIPE, 10)
    assert none is None
    assert len(images) == 2
    with pytest.raises(DataError, match="no labels to train with"):
        open_training(spec, RECIPE, 10)


def test_damaged_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    spec = shard(path, ("a.png", GOOD), ("b.png", GOOD))
    whole = path.read_bytes()
    assert find(spec, None, ())[1] is not None
    second = whole.index(b"b.png")
    cut = {"text": b"no tar" * 500, "in a file": whole[: second - 600], "between two": whole[:second]}
    cut |= {"a bad header": whole[:second] + b"x" * 512 + whole[second + 512 :], "empty": b""}
    for content in cut.values():
        path.write_bytes(content)
        refused(DataError, "no readable tar file", spec, place=path)


def test_labels_and_images_of_datasets_are_checked(tmp_path: Path) -> None:
    def saved(**columns: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        datasets.Dataset.from_dict(columns).save_to_disk(str(folder))
        return f"hfds/{folder}"

    good = {"bytes": GOOD, "path": None}
    refused(DataError, "no column 'image' or 'img' .found text", saved(text=["a"]))
    refused(DataError, "the column 'label' holds string", saved(image=[good], label=["cat"]))
    refused(DataError, "row 1: label -1", saved(image=[good, good], label=[0, -1]))
    refused(DataError, "row 0: there is no image", saved(image=[{"bytes": None, "path": None}], label=[0]))
    refused(DataError, "holds no images", saved(image=[1, 2], label=[0, 1]))
    damaged = saved(image=[good, {"bytes": b"x", "path": None}], label=[0, 1])
    refused(DataError, "row 1: the image cannot be decoded", damaged)
    ((images, none),) = open_data(saved(image=[good]), RECIPE, 10)
    assert none is None
    assert len(images) == 1
