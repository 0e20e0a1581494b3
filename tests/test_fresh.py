"""The paper's networks from scratch, and the survey of the images that they are to learn."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import resprune
from resprune import families
from resprune.chain import ResidualChain
from resprune.checks import check_network, check_preprocessing, check_split
from resprune.data import open_data, survey
from resprune.errors import DataError, UsageError
from resprune.export.folder import write_network
from resprune.fresh import fresh, is_name
from resprune.records import Architecture, Survey
from resprune.selection import select
from resprune.surgery import remove_blocks

CIFAR10 = Survey("cifar10", "train", 50_000, 10, 3, 32, 32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 10_000)
CIFAR100 = Survey("cifar100", "train", 50_000, 100, 3, 32, 32, (0.51, 0.49, 0.44), (0.27, 0.26, 0.28), 10_000)
MNIST = Survey("mnist", "train", 60_000, 10, 1, 28, 28, (0.13,), (0.31,), 10_000)


def millions(chain: ResidualChain) -> float:
    return sum(parameter.numel() for parameter in chain.network.parameters()) / 1e6


def pruned(chain: ResidualChain, depth: int) -> ResidualChain:
    return remove_blocks(chain, select(depth=depth, blocks=chain.depth))


@pytest.mark.parametrize(
    ("name", "data", "whole", "first_12"),
    [
        ("paper-homogeneous-54", MNIST, "1.0", "0.2"),
        ("paper-homogeneous-54", CIFAR10, "4.0", "0.9"),
        ("paper-homogeneous-54", CIFAR100, "4.0", "0.9"),
        ("paper-standard-54", CIFAR10, "1.7", "0.06"),
    ],
)
def test_parameters_are_those_of_table_1(name: str, data: Survey, whole: str, first_12: str) -> None:
    chain = fresh(name, data, seed=0)
    assert chain.depth == 54
    assert f"{millions(chain):.1f}" == whole
    assert f"{millions(pruned(chain, 12)):.{len(first_12) - 2}f}" == first_12


def test_a_small_homogeneous_network_is_the_pruned_one_s_size() -> None:
    small, large = (
        fresh("paper-homogeneous-12", CIFAR10, seed=0),
        fresh("paper-homogeneous-54", CIFAR10, seed=0),
    )
    assert millions(small) == millions(pruned(large, 12))


@pytest.mark.parametrize(
    ("name", "data", "shapes"),
    [
        ("paper-homogeneous-2", CIFAR10, [(64, 32, 32)] * 3),
        ("paper-homogeneous-1", MNIST, [(32, 28, 28)] * 2),
        ("paper-standard-3", CIFAR100, [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("paper-standard-6", MNIST, [(16, 28, 28)] * 3 + [(32, 14, 14)] * 2 + [(64, 7, 7)] * 2),
    ],
)
@torch.inference_mode()
def test_the_states_have_the_paper_s_shapes(name: str, data: Survey, shapes: list[tuple[int, ...]]) -> None:
    chain = fresh(name, data, seed=0)
    images = torch.randn(2, data.channels, data.height, data.width, generator=torch.Generator().manual_seed(0))
    x = chain.stem(images)
    assert (x >= 0).all()  # norm and ReLU
    states = [x] + [x := block(x) for block in chain.blocks]
    assert [tuple(state.shape[1:]) for state in states] == shapes
    logits = chain(images)
    assert logits.shape == (2, data.classes)
    assert logits.isfinite().all()
    check_split(chain)
    check_preprocessing(chain)
    assert check_network(chain) == data.classes


def test_a_fresh_chain_is_like_any_other() -> None:
    chain = fresh("paper-standard-3", MNIST, seed=0)
    assert not any(module.training for module in chain.network.modules())
    assert not any(parameter.requires_grad for parameter in chain.network.parameters())
    assert {tensor.device.type for tensor in chain.network.state_dict().values()} == {"cpu"}
    assert (chain.origin.path, chain.origin.sha256, chain.origin.format) == (
        "paper-standard-3",
        "",
        "from scratch",
    )
    recipe = chain.preprocessing
    assert (recipe.channels, recipe.height, recipe.width, recipe.resize) == (1, 28, 28, None)
    assert (recipe.mean, recipe.std) == (MNIST.mean, MNIST.std)
    assert recipe.source == "measured on 10,000 training images"
    assert chain.architecture.name == "paper-standard-3"


def test_weights_are_he_s() -> None:
    """Against the formulas, drawn in the order of the network's layers."""
    chain, generator = fresh("paper-standard-3", CIFAR10, seed=5), torch.Generator().manual_seed(5)
    for name, layer in chain.network.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            deviation = math.sqrt(2 / (layer.out_channels * layer.weight[0, 0].numel()))
            expected = deviation * torch.randn(layer.weight.shape, generator=generator)
            torch.testing.assert_close(layer.weight.data, expected, msg=name)
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert (layer.bias == 0).all()
            assert layer.running_mean is not None
            assert layer.running_var is not None
            assert (layer.running_mean == 0).all()
            assert (layer.running_var == 1).all()
            assert layer.num_batches_tracked == 0
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(64)
            for parameter in (layer.weight, layer.bias):
                expected = bound * (2 * torch.rand(parameter.shape, generator=generator) - 1)
                torch.testing.assert_close(parameter.data, expected)


def test_weights_are_a_function_of_the_seed() -> None:
    before = torch.get_rng_state()
    first = fresh("paper-standard-6", CIFAR10, seed=1).network.state_dict()
    torch.manual_seed(99)
    again = fresh("paper-standard-6", CIFAR10, seed=1).network.state_dict()
    other = fresh("paper-standard-6", CIFAR10, seed=2).network.state_dict()
    torch.set_rng_state(before)
    fresh("paper-standard-6", CIFAR10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if first[name].ndim == 4 or name.startswith("fc.")]
    assert len(drawn) == 1 + 2 * 6 + 2 + 2
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@torch.inference_mode()
def test_a_fresh_network_is_saved_and_loaded(tmp_path: Path) -> None:
    chain = fresh("paper-standard-6", CIFAR10, seed=0)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for number, written in enumerate([chain, pruned(chain, 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_network(written, folder)
        loaded = resprune.load(folder)
        assert torch.equal(loaded(images), written(images))
        assert loaded.architecture == written.architecture
        assert loaded.preprocessing.mean == chain.preprocessing.mean
    assert written.architecture.name == "paper-standard-6-sub3"


def test_weights_alone_tell_the_network() -> None:
    for name, data in [("paper-homogeneous-3", MNIST), ("paper-standard-6", CIFAR10)]:
        chain = fresh(name, data, seed=0)
        found = families.recognise(chain.network.state_dict())
        assert found is not None
        assert (found.family, found.stages, found.options) == (
            "preact",
            chain.architecture.stages,
            chain.architecture.options,
        )


def test_architectures_from_before_the_stem_s_norm_are_built_without_it() -> None:
    options = {"widths": [8], "stem_stride": 1, "in_channels": 1, "classes": 10}
    network = families.build(Architecture("preact", "old", ("bb",), options))
    assert "bn1.weight" not in network.state_dict()


@pytest.mark.parametrize(
    "name", ["paper-homogeneous-54", "paper-standard-54", "paper-homogenous-54", "paper_x"]
)
def test_names_are_told_from_files(name: str) -> None:
    assert is_name(name)
    assert not any(
        is_name(path) for path in (f"./{name}", f"{name}/", f"{name}.pt", f"runs/{name}", "demo", "")
    )


@pytest.mark.parametrize(
    "name",
    [
        *("paper-homogenous-54", "paper-homogeneous-0", "paper-homogeneous", "paper-homogeneous-054"),
        *("paper-standard--3", "Paper-standard-3", "paper-standard-3 ", "paper-homogeneous-5.4"),
    ],
)
def test_misspelt_names_end_in_both_forms(name: str) -> None:
    with pytest.raises(UsageError, match=r"paper-homogeneous-N or paper-standard-N, N >= 1") as caught:
        fresh(name, CIFAR10, seed=0)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(("blocks", "near"), [(55, "54 or paper-standard-57"), (2, "3")])
def test_three_stages_need_a_multiple_of_three(blocks: int, near: str) -> None:
    with pytest.raises(
        UsageError, match=rf"{blocks} blocks cannot be divided by 3; choose paper-standard-{near}$"
    ):
        fresh(f"paper-standard-{blocks}", CIFAR10, seed=0)


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
    with pytest.raises(DataError, match=r"no split 'train' \(found 'test'\); add training images, or name"):
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
