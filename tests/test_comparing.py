"""`bench` and `compare` as a whole: in Python, on the command line, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain
from test_running import Session

import resprune
from resprune.chain import ResidualChain
from resprune.comparing import common_device
from resprune.data import open_data
from resprune.errors import UsageError
from resprune.records import Origin
from resprune.running import OnnxNetwork

KEYS_TIMING = {"checkpoint", "mode", "latency_ms", "throughput", "peak_memory_bytes"}
KEYS_CHECKPOINT = {"path", "sha256", "family", "architecture", "blocks", "parameters", "macs"}


def chain_with(seed: int = 0, name: str = "cifar option B", **recipe: Any) -> ResidualChain:
    chain = make_chain(ARCHITECTURES[name], seed)
    return replace(chain, preprocessing=replace(chain.preprocessing, **recipe))


def onnx_network(
    batch: int | None = None,
    shape: tuple[int | None, int | None, int | None] = (3, 32, 32),
    classes: int | None = 10,
) -> OnnxNetwork:
    return OnnxNetwork(Origin("net.onnx", "0" * 64, "ONNX"), Session(), batch, shape, classes)


def json_of(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json", "--threads", "1")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    path = tmp_path / "other.pth"
    torch.save(make_chain(ARCHITECTURES["cifar option A"], seed=5).network.state_dict(), path)
    return path


def test_bench_measures_both_in_the_same_rounds() -> None:
    first, other = chain_with(0), chain_with(1, "cifar option A")
    before = {name: tensor.clone() for name, tensor in first.network.state_dict().items()}
    outcome = resprune.bench(first, other, rounds=4, batch_size=2, channels_last=True)
    assert outcome.against is not None
    assert outcome.first.latency.rounds == outcome.against.latency.rounds == 4
    assert outcome.first.latency.batch_size == 2
    assert outcome.ratio == outcome.first.latency.ratio_to(outcome.against.latency)
    assert (outcome.shape, outcome.channels_last) == ((3, 32, 32), True)
    assert outcome.first.subject == first.summary
    after = first.network.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_peak_memory_holds_the_weights_and_grows_with_the_batch() -> None:
    chain = chain_with()
    one, eight = (resprune.bench(chain, rounds=1, batch_size=size).first.peak_bytes for size in (1, 8))
    assert one is not None
    assert eight is not None
    assert one > 4 * chain.summary.parameters
    assert eight > one + 7 * 4 * 3 * 32 * 32


def test_a_file_that_leaves_sizes_open_takes_the_others() -> None:
    outcome = resprune.bench(onnx_network(shape=(3, None, None)), chain_with(), rounds=1)
    assert outcome.shape == (3, 32, 32)
    assert (outcome.first.mode, outcome.first.peak_bytes) == ("onnxruntime", None)


@pytest.mark.parametrize(
    ("networks", "options", "words"),
    [
        ((chain_with(height=28, width=28), chain_with()), {}, "3 x 28 x 28 and 3 x 32 x 32"),
        ((onnx_network(shape=(1, None, None)), chain_with()), {}, "1 x any x any"),
        ((onnx_network(shape=(3, None, None)),), {}, "leaves the size"),
        ((onnx_network(batch=8),), {}, "batches of 8 only, not of 1"),
        ((onnx_network(),), {"mode": "compiled"}, "cannot be run as compiled"),
        ((onnx_network(),), {"channels_last": True}, "memory"),
        ((chain_with(),), {"mode": "fast"}, "'fast'"),
        ((chain_with(),), {"batch_size": 0}, "batch_size must be at least 1"),
        ((chain_with(),), {"rounds": 0}, "^rounds must be at least 1"),
    ],
)
def test_what_bench_refuses(networks: tuple[Any, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resprune.bench(*networks, **options)


def test_a_network_is_like_itself(image_folder: Callable[..., Path]) -> None:
    found = resprune.compare(chain_with(), chain_with(), image_folder())
    like = found.likeness
    assert (like.samples, like.agreement, like.max_abs_difference, like.differing) == (20, 1.0, 0.0, 0)
    assert like.first == like.second


def test_each_figure_is_what_evaluate_says(image_folder: Callable[..., Path]) -> None:
    folder, chains = image_folder(each=3), (chain_with(0), chain_with(1, "cifar option A"))
    found = resprune.compare(*chains, folder, batch_size=7)
    singles = [resprune.evaluate(chain, folder, batch_size=7)[0] for chain in chains]
    assert (found.likeness.first.accuracy, found.likeness.second.accuracy) == (
        singles[0].accuracy,
        singles[1].accuracy,
    )
    assert found.likeness.second.loss == pytest.approx(singles[1].loss)
    assert found.likeness.outcomes is not None
    hits = found.likeness.outcomes
    assert hits.both + hits.only_second == round(30 * (singles[1].accuracy or 0))


def test_networks_may_normalise_as_they_like(image_folder: Callable[..., Path]) -> None:
    folder = image_folder()
    first, second = chain_with(), chain_with(mean=(0.1,) * 3, std=(0.7,) * 3)
    found = resprune.compare(first, second, folder)
    assert found.likeness.second.loss == pytest.approx(resprune.evaluate(second, folder)[0].loss)
    assert found.likeness.max_abs_difference > 0
    assert found.data is not None
    assert found.data.preprocessing is None  # there is not one


def test_an_image_that_they_disagree_on_can_be_found(image_folder: Callable[..., Path]) -> None:
    folder = image_folder(each=3)
    found = resprune.compare(chain_with(0), chain_with(1), folder, samples=20, seed=3)
    assert found.likeness.differing == len(found.likeness.disagreements) > 0
    for own in found.likeness.disagreements:
        assert Path(own.image).is_file()
        assert Path(own.image).parent.name == f"class{own.label}"


def test_noise_tells_of_differences_only() -> None:
    found = resprune.compare(chain_with(0), chain_with(1))
    assert found.data is None
    assert found.likeness.max_abs_difference > 0
    assert found.likeness.disagreements == ()
    assert resprune.compare(chain_with(0), chain_with(1)).likeness == found.likeness


def test_an_onnx_file_gets_what_the_other_gets(image_folder: Callable[..., Path]) -> None:
    folder, chain = image_folder(), chain_with(mean=(0.1,) * 3, std=(0.7,) * 3)

    class Exported(Session):
        def run(self, wanted: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [chain(torch.from_numpy(feed["x"])).numpy()]

    exported = replace(onnx_network(), session=Exported())
    for pair in ((chain, exported), (exported, chain)):
        found = resprune.compare(*pair, folder)
        assert found.likeness.max_rel_difference < 1e-5
        assert found.likeness.first.loss == pytest.approx(resprune.evaluate(chain, folder)[0].loss)


def test_an_onnx_file_may_say_its_own_preprocessing(image_folder: Callable[..., Path]) -> None:
    folder, chain = image_folder(), chain_with(mean=(0.1,) * 3, std=(0.7,) * 3)
    flat = folder / "class0"  # of which nothing says what the classes are called
    seen: list[torch.Tensor] = []

    class Exported(Session):
        def run(self, wanted: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(torch.from_numpy(feed["x"]))
            return [-chain(seen[-1]).numpy()]

    names = tuple(f"kind {index}" for index in range(10))
    recipe = replace(chain.preprocessing, mean=(0.3,) * 3)
    told = replace(onnx_network(), session=Exported(), preprocessing=recipe, class_names=names)
    alone = resprune.compare(told, told, flat)
    assert (alone.likeness.agreement, alone.class_names) == (1, names)
    beside = resprune.compare(chain, told, flat)
    assert beside.likeness.agreement == 0
    (images, _), *_ = open_data(flat, recipe, 10)
    assert torch.equal(seen[-1], images)  # its own mean, not the chain's


@pytest.mark.parametrize(
    ("first", "second", "data", "words"),
    [
        (chain_with(), chain_with(name="torchvision basic"), "x", "10 and 7 classes"),
        (onnx_network(classes=None), onnx_network(classes=None), None, "number of classes open"),
        (onnx_network(), onnx_network(), "x", "does not say how images become its input"),
        (chain_with(), chain_with(height=64, width=64), "x", "different input"),
        (chain_with(resize=40), chain_with(resize=36), "x", "resize 40 and 36"),
        (chain_with(mean=(0.1,) * 3), chain_with(), None, "differs in mean"),
    ],
)
def test_what_compare_refuses(first: Any, second: Any, data: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resprune.compare(first, second, data)


def test_a_filter_that_is_not_used_does_not_matter() -> None:
    found = resprune.compare(chain_with(interpolation="bicubic"), chain_with())
    assert found.likeness.max_abs_difference == 0.0


def test_onnx_files_pull_auto_to_the_cpu() -> None:
    assert common_device("auto", "eager", "a.pth", None) == "auto"
    assert common_device("auto", "onnxruntime", "a.pth") == "cpu"
    assert common_device("auto", "eager", "a.pth", "b.onnx") == "cpu"
    assert common_device("cuda", "onnxruntime", "a.pth") == "cuda"


def test_bench_prints_one_object(cifar_file: Path, other_file: Path) -> None:
    alone = json_of("bench", cifar_file, "--rounds", "2")
    assert alone["schema"] == "resprune/bench/1"
    assert set(alone) == KEYS_TIMING | {
        "schema",
        "version",
        "rounds",
        "threads",
        "device",
        "batch_size",
        "input",
        "channels_last",
        "made",
    }
    assert set(alone["latency_ms"]) == {"median", "iqr"}
    assert (alone["threads"], alone["device"], alone["batch_size"], alone["rounds"]) == (1, "cpu", 1, 2)
    both = json_of("bench", cifar_file, "--against", other_file, "--rounds", "3", "--batch-size", "2")
    assert set(both) - set(alone) == {"against", "ratio", "ratio_quartiles"}
    assert set(both["against"]) == KEYS_TIMING
    assert both["against"]["checkpoint"]["path"] == str(other_file)
    assert both["ratio_quartiles"][0] <= both["ratio"] <= both["ratio_quartiles"][1]


def test_compare_prints_one_object(
    cifar_file: Path, other_file: Path, image_folder: Callable[..., Path]
) -> None:
    found = json_of("compare", cifar_file, other_file, "--data", image_folder())
    assert set(found) == {
        "schema",
        "version",
        "checkpoint",
        "data",
        "inputs",
        "samples",
        "agreement",
        "max_abs_difference",
        "max_rel_difference",
        "divergence",
        "accuracy",
        "loss",
        "against",
        "outcomes",
        "disagreements",
        "made",
    }
    assert set(found["against"]) == {"checkpoint", "accuracy", "loss"}
    assert set(found["against"]["checkpoint"]) == KEYS_CHECKPOINT
    assert sum(found["outcomes"].values()) == found["samples"] == 20
    told = found["disagreements"]
    assert told["count"] == len(told["images"]) == round(20 * (1 - found["agreement"]))
    own = told["images"][0]
    assert own["label"]["name"] == f"class{own['label']['index']}"
    assert own["checkpoint"] != own["against"]


def test_compare_on_noise_leaves_out_what_noise_does_not_tell(cifar_file: Path, other_file: Path) -> None:
    found = json_of("compare", cifar_file, other_file)
    assert "data" not in found
    assert found["inputs"] == "seeded noise"
    nothing = ("agreement", "divergence", "accuracy", "outcomes", "disagreements")
    assert [found[key] for key in nothing] == [None] * 5
    assert found["max_abs_difference"] > 0


def test_the_terminal_shows_twenty_and_counts_the_rest(
    cifar_file: Path, other_file: Path, image_folder: Callable[..., Path]
) -> None:
    folder = image_folder(each=6)
    count = json_of("compare", cifar_file, other_file, "--data", folder)["disagreements"]["count"]
    assert count > 20
    shown = run("compare", cifar_file, other_file, "--data", folder).stdout
    assert sum(line.endswith(".png") for line in map(str.rstrip, shown.splitlines())) == 20
    assert f"... and {count - 20} more" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("names", [("demo", "other"), ("other", "demo")])
def test_the_demo_brings_its_images_on_either_side(names: tuple[str, str]) -> None:
    chain = resprune.load("demo", device="cpu")
    networks = {"demo": chain, "other": replace(chain, origin=replace(chain.origin, path="other.safetensors"))}
    first, second = (networks[name] for name in names)
    found = resprune.compare(first, second, samples=20)
    assert found.data is not None
    assert (found.data.spec, found.data.samples) == ("demo", 20)
    assert found.likeness.agreement == 1


def test_bench_on_the_terminal(cifar_file: Path, other_file: Path) -> None:
    shown = run("bench", cifar_file, "--against", other_file, "--rounds", "2", "--threads", "1").stdout
    assert "Input 1 x 3 x 32 x 32, channels last, cpu, 1 thread; 2 rounds" in " ".join(shown.split())
    assert f"{cifar_file.name} takes " in shown.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bench", "FILE", "--mode", "fast"], "use eager, compiled, onnxruntime"),
        (["bench", "FILE", "--seconds", "0"], "seconds above 0"),
        (["bench", "FILE", "--against", "demo"], "different input"),
        (["compare", "FILE", "demo"], "only networks of as many channels"),
        (["compare", "FILE", "FILE", "--samples", "5"], "samples is of images, and none are named"),
        (["bench", "FILE", "--against", "net.onnx"], "pip install 'resprune[onnx]'"),
        (["compare", "FILE", "net.onnx"], "pip install 'resprune[onnx]'"),
    ],
)
def test_refusals_of_the_commands(
    cifar_file: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refusal(2, *(cifar_file if word == "FILE" else word for word in arguments))
    assert words in line
