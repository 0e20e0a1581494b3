"""Exports: stock libraries read the same network, bit by bit unless weights were changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain, make_images
from PIL import Image
from test_folding import without_two_stages

import resprune
from resprune import pipeline
from resprune.chain import ResidualChain
from resprune.data import open_data
from resprune.errors import OutputError, ResPruneError, UsageError, VerificationError
from resprune.exporting import formats, graphs, targets
from resprune.exporting.restoring import restore
from resprune.exporting.verifying import Written, read_back
from resprune.records import Architecture, ReadBack

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

STOCK = ("timm", "torchvision", "hf")
UNCHECKED = ReadBack(0.0, 0.0, "seeded noise", 4, ("nothing",), False)
pytestmark = pytest.mark.new_process


def hf_version_1() -> Architecture:
    """Return a network of Hugging Face's with the stride in a bottleneck's first convolution."""
    plain = ARCHITECTURES["torchvision version 1"]
    return Architecture(
        plain.family, "v1", ("b", "bb", "b", "b"), {**plain.options, "width_per_group": 64, "in_channels": 1}
    )


GRAPHS = ("cifar option A", "merged projections")
OTHER_GRAPHS = (  # with those, every family
    *("torchvision small stem", "torchvision regnet y", "cifar preact", "preact stem norm"),
    *("timm deep stem", "a projection only"),
)
ONNX = {"cifar option A": True, "preact stem norm": False, "a projection only": True, "timm deep stem": False}
"""Of which as ONNX too, and whether batch norms are folded."""
HOLDS = {
    "torchvision basic": STOCK,
    "torchvision bottleneck": STOCK,
    "torchvision resnext": STOCK,
    "torchvision regnet x": ("torchvision",),
    "torchvision regnet y": ("torchvision",),
    "timm deep stem": ("timm", "hf"),
    "timm pre-activation": ("timm", "hf"),
    "timm fixed depth": ("timm", "hf"),
}


def without_stage(name: str) -> ResidualChain:
    """Return a network of which the last stage keeps only its skip step, and another lost its blocks."""
    chain = make_chain(ARCHITECTURES[name])
    last = [block.index for block in chain.blocks if block.stage == len(chain.architecture.stages) - 1]
    first = [block.index for block in chain.blocks if block.stage == 0] if "basic" in name else []
    plan = pipeline.select(remove=[*first, *last], paths=[block.path for block in chain.blocks])
    return pipeline.prune(chain, plan).chain


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> list[Written]:
    """Put off reading back, so that one process reads many; returns what waits for it."""
    waiting: list[Written] = []

    def note(written: Sequence[Written], seed: int = 0) -> list[ReadBack]:
        waiting.extend(written)
        return [UNCHECKED] * len(written)

    monkeypatch.setattr(formats, "read_back", note)
    return waiting


def write(waiting: list[Written], chain: ResidualChain, out: Path, name: str, **options: Any) -> Path:
    path = out.with_name(out.name + targets.FORMATS[name].suffix)
    resprune.export(chain, path, name, **options)
    last = waiting.pop()
    waiting.append(Written(name, path, chain, last.relative))
    return path


def test_stock_classes_compute_the_same_bits(unchecked: list[Written], tmp_path: Path) -> None:
    chains = {name: make_chain(architecture) for name, architecture in ARCHITECTURES.items()}
    for index, (name, chain) in enumerate(chains.items()):
        for form in STOCK:
            out = tmp_path / f"{index}-{form}"
            if form in HOLDS.get(name, ()):
                write(unchecked, chain, out, form)
            else:
                with pytest.raises(UsageError, match="has no class that computes"):
                    resprune.export(chain, out.with_suffix(targets.FORMATS[form].suffix), form)
    write(unchecked, make_chain(hf_version_1()), tmp_path / "v1", "hf")
    write(unchecked, without_stage("cifar option B"), tmp_path / "compact", "safetensors")
    for name in ("torchvision basic", "timm deep stem", "timm fixed depth"):
        write(unchecked, without_stage(name), tmp_path / f"{name} zeroed", "timm", zeroed=True)
    assert all(written.relative == 0 for written in unchecked)
    found = read_back(unchecked)
    assert len(found) == sum(map(len, HOLDS.values())) + 5
    assert {verified.max_abs_difference for verified in found} == {0.0}
    assert all(verified.against.endswith(" in a new process") for verified in found)


@pytest.mark.parametrize("names", [GRAPHS, pytest.param(OTHER_GRAPHS, marks=pytest.mark.exhaustive)])
def test_graphs_compute_the_same(
    names: Sequence[str], unchecked: list[Written], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: dict[tuple[int, bool], graphs.Traced] = {}
    real = graphs.trace

    def once(chain: ResidualChain, fold: bool) -> graphs.Traced:
        if (id(chain), fold) not in traced:
            traced[id(chain), fold] = real(chain, fold)
        return traced[id(chain), fold]

    monkeypatch.setattr(graphs, "trace", once)
    special = {
        "a projection only": lambda: without_stage("cifar option B"),
        "merged projections": lambda: without_two_stages("preact standard"),
    }
    chains = {name: special[name]() if name in special else make_chain(ARCHITECTURES[name]) for name in names}
    outputs = {name: chain(make_images(chain, 2)) for name, chain in chains.items()}
    for index, (name, chain) in enumerate(chains.items()):
        if name in ONNX:
            write(unchecked, chain, tmp_path / f"{index}", "onnx", fold_bn=ONNX[name])
        write(unchecked, chain, tmp_path / f"{index}", "torch-export")
        if ONNX.get(name):
            write(unchecked, chain, tmp_path / f"{index}-folded", "torch-export", fold_bn=True)
    for written, verified in zip(unchecked, read_back(unchecked), strict=True):
        changed = "folded" in written.path.name or written.source is chains.get("merged projections")
        exact = written.format == "torch-export" and not changed
        assert written.relative == (0 if exact else 1e-5)
        assert (verified.max_abs_difference == 0) == exact
        content = written.path.read_bytes()
        for place in (tmp_path, Path(resprune.__file__).parent, Path(torch.__file__).parents[1]):
            assert str(place).encode() not in content
    for name, chain in chains.items():
        assert torch.equal(chain(make_images(chain, 2)), outputs[name])


@pytest.mark.parametrize("name", ["torchvision basic", "cifar option A", "preact standard", "timm fixed depth"])
def test_the_compatible_form_is_the_same_function_and_says_what_it_costs(name: str) -> None:
    chain = without_stage(name)
    images = make_images(chain, 5)
    whole = restore(chain)
    assert whole.architecture.is_stock
    assert torch.equal(whole(images), chain(images))
    told = targets.outline(chain, whole.architecture)
    assert (told.macs, told.parameters) == (whole.summary.macs, whole.summary.parameters)
    assert told.macs > chain.summary.macs
    for block in whole.blocks[-1:]:
        assert not block.branch(torch.rand_like(_input_of(whole, block.index, images))).any()


def _input_of(chain: ResidualChain, index: int, images: torch.Tensor) -> torch.Tensor:
    x = chain.stem(images)
    for block in chain.blocks[:index]:
        x = block(x)
    return x


def test_a_network_without_a_stage_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    chain = without_stage("torchvision basic")
    whole = restore(chain).summary
    with pytest.raises(UsageError) as caught:
        resprune.export(chain, tmp_path / "out", "timm")
    text = str(caught.value)
    assert "timm has no class for stages that are not all whole blocks (they are none, bbb, b, s)" in text
    assert "--format onnx can hold it; or add --zeroed" in text
    assert f"{whole.parameters - chain.summary.parameters:,} parameters" in text
    assert f"{whole.macs - chain.summary.macs:,} MACs" in text
    assert not list(tmp_path.iterdir())


def test_what_hugging_face_holds_is_read_by_resprune_too(
    unchecked: list[Written], tmp_path: Path, image_folder: Any
) -> None:
    from transformers import AutoConfig, AutoImageProcessor

    chain = make_chain(ARCHITECTURES["torchvision bottleneck"])  # of width 16: timm's, in transformers' wrapper
    labels = [f"kind {index}" for index in range(7)]
    wrapped = write(unchecked, chain, tmp_path / "wrapped", "hf", class_names=labels)
    own = make_chain(ARCHITECTURES["torchvision basic"])
    folder = write(unchecked, own, tmp_path / "own", "hf", class_names=labels)
    for path in (wrapped, folder):
        assert dict(AutoConfig.from_pretrained(path).id2label or {}) == dict(enumerate(labels))
    assert json.loads((folder / "config.json").read_text())["model_type"] == "resnet"
    again = pipeline.load(folder, device="cpu")
    images = make_images(own, 3)
    assert torch.equal(again(images), own(images))
    assert again.preprocessing.to_json() == own.preprocessing.to_json()
    pictures = image_folder(classes=7, each=1)
    ours = next(iter(open_data(str(pictures), own.preprocessing, 7)))[0][:1]
    processor = AutoImageProcessor.from_pretrained(folder)
    with Image.open(pictures / "class0" / "0.png") as picture:
        theirs = processor(picture, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


def test_metadata_say_what_the_network_is(unchecked: list[Written], tmp_path: Path) -> None:
    import onnx

    names = [f"kind {index}" for index in range(10)]
    chain = make_chain(ARCHITECTURES["preact homogeneous"])
    model = onnx.load(write(unchecked, chain, tmp_path / "a", "onnx", class_names=names))
    told = {entry.key: entry.value for entry in model.metadata_props}
    extra = {"resprune.json": ""}
    torch.export.load(
        write(unchecked, chain, tmp_path / "a", "torch-export", class_names=names), extra_files=extra
    )
    assert told == json.loads(extra["resprune.json"])
    assert json.loads(told["class_names"]) == names
    assert json.loads(told["preprocessing"]) == chain.preprocessing.to_json()
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input] == ["batch"]
    basic = make_chain(ARCHITECTURES["torchvision basic"])
    with safetensors.safe_open(write(unchecked, basic, tmp_path / "b", "torchvision"), framework="pt") as file:
        line = file.metadata()["constructor"]
    block = "torchvision.models.resnet.BasicBlock"
    assert line == f"torchvision.models.ResNet({block}, [2, 3, 1, 2], num_classes=7)"


@pytest.mark.parametrize(("name", "out"), [("safetensors", "out"), ("torch-export", "out.pt2")])
def test_what_fails_its_check_leaves_nothing(
    name: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(written: Sequence[Written], seed: int = 0) -> list[ReadBack]:
        assert written[0].path.exists()
        raise VerificationError("the logits differ")

    monkeypatch.setattr(formats, "read_back", fail)
    chain = make_chain(ARCHITECTURES["preact homogeneous"])
    with pytest.raises(VerificationError):
        resprune.export(chain, tmp_path / out, name)
    assert not list(tmp_path.iterdir())


def test_other_weights_and_damage_are_noticed(unchecked: list[Written], tmp_path: Path) -> None:
    chain = make_chain(ARCHITECTURES["torchvision basic"])
    path = write(unchecked, chain, tmp_path / "a", "torchvision")
    other = make_chain(ARCHITECTURES["torchvision basic"], seed=1)
    with pytest.raises(VerificationError, match="the logits differ from the source network on 4 seeded images"):
        read_back([Written("torchvision", path, other, 1e-5)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(VerificationError, match="cannot be read back as torchvision"):
        read_back([Written("torchvision", path, chain, 0.0)])


def test_a_missing_extra_is_named_with_its_install_line(
    cifar_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_some(name: str) -> None:
        if name.startswith(("onnx", "transformers")):
            raise ImportError(name)

    monkeypatch.setattr(targets, "import_module", only_some)
    line = refusal(2, "export", cifar_file, "--format", "onnx", "--out", tmp_path / "a.onnx")
    assert "needs onnx and onnxscript and onnxruntime, not installed here; pip install 'resprune[onnx]'" in line
    line = refusal(2, "export", cifar_file, "--format", "hf", "--out", tmp_path / "a")
    assert "pip install 'resprune[hf]'" in line


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--format", "timm", "--out", "a"], 2, "timm has no class that computes resnet18; --format onnx can"),
        (["--format", "onnx", "--out", "a"], 2, "one file that ends in .onnx; --out a.onnx"),
        (
            ["--format", "timm", "--out", "a", "--fold-bn"],
            2,
            "leave --fold-bn out; onnx and torch-export take it",
        ),
        (["--format", "safetensors", "--out", "a", "--zeroed"], 2, "whole blocks already; leave --zeroed out"),
        (["--format", "torch-export", "--out", "there.pt2", "--force"], 3, "no export of resprune's"),
        (["--format", "safetensors", "--out", "a", "--class-names", "names"], 2, "2 class names for 10 logits"),
        (["--format", "safetensors", "--out", "a", "--class-names", "none"], 2, "No such file"),
    ],
)
def test_refusals(
    cifar_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.pt2").write_text("mine")
    (tmp_path / "names").write_text("cat\ndog\n")
    before = sorted(entry.name for entry in tmp_path.iterdir())
    assert message in refusal(status, "export", cifar_file, *arguments)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
    assert (tmp_path / "there.pt2").read_text() == "mine"


def test_the_command_writes_checks_and_tells(cifar_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt2"
    result = run("export", cifar_file, "--format", "torch-export", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["schema"] == "resprune/export/1"
    assert (told["format"], told["zeroed"], told["folded"]) == ("torch-export", None, 0)
    assert told["verified"]["max_abs_difference"] == told["verified"]["tolerance"] == 0
    assert told["output"] == {"folder": str(tmp_path), "files": ["model.pt2"]}
    assert out.stat().st_mode & 0o777 == cifar_file.stat().st_mode & 0o777
    again = ("export", cifar_file, "--format", "torch-export", "--out", out)
    assert "exists already; add --force" in refusal(3, *again)
    assert "saved, which has no blocks any more; give the checkpoint" in refusal(3, "inspect", out)


def test_an_export_is_replaced_by_force_only(unchecked: list[Written], tmp_path: Path) -> None:
    basic, small = (make_chain(ARCHITECTURES[name]) for name in ("torchvision basic", "preact homogeneous"))
    for name, chain in (("torchvision", basic), ("hf", basic), ("torch-export", small), ("onnx", small)):
        path = write(unchecked, chain, tmp_path / "out", name)
        with pytest.raises(OutputError, match="exists already"):
            resprune.export(chain, path, name)
        write(unchecked, chain, tmp_path / "out", name, force=True)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_card_says_how_to_load(unchecked: list[Written], tmp_path: Path) -> None:
    chain = without_stage("torchvision basic")
    folder = write(unchecked, chain, tmp_path / "mine", "timm", zeroed=True)
    text = (folder / "README.md").read_text()
    assert "library_name: timm" in text
    assert 'timm.create_model("local-dir:mine", pretrained=True)' in text
    assert "whole again with a branch" in text
    assert str(tmp_path) not in text


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResPruneError, match="choose from timm, torchvision"):
        resprune.export(make_chain(ARCHITECTURES["preact homogeneous"]), tmp_path / "a", "tflite")
