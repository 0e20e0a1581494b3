"""Networks as functions: ONNX Runtime behind a stand-in, and itself where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images

import resprune
from resprune.comparing import open_network
from resprune.errors import ArchitectureError, CheckpointError, ResPruneError, UsageError
from resprune.records import Preprocessing
from resprune.running import OnnxNetwork, is_onnx, open_onnx, ready


@dataclass
class Session:
    """ONNX Runtime's session, as far as it is used: logits are the channels' means."""

    batch: int | str = "batch"
    sizes: tuple[int | str, ...] = (3, 32, 32)
    outputs: list[list[int | str]] = field(default_factory=lambda: [["batch", 3]])
    kind: str = "tensor(float)"
    fail: bool = False
    calls: list[int] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)

    def get_modelmeta(self) -> Any:
        return SimpleNamespace(custom_metadata_map=self.about)

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", shape=[self.batch, *self.sizes], type=self.kind)]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", shape=shape) for shape in self.outputs]

    def run(self, wanted: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        if self.fail:
            raise RuntimeError("Non-zero status code\nwhile running Conv")
        self.calls.append(len(feed["x"]))
        return [feed["x"].mean(axis=(2, 3))]


Install = Callable[[Session | None], SimpleNamespace]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that puts a stand-in for ONNX Runtime in place; without a session it reads no file."""

    def put(session: Session | None) -> SimpleNamespace:
        def open_session(model: str | bytes, options: SimpleNamespace, providers: list[str]) -> Session:
            runtime.options, runtime.providers = options, providers
            if session is None:
                raise RuntimeError("INVALID_PROTOBUF : no model")
            return session

        runtime = SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=open_session)
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        return runtime

    return put


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"a model")
    return path


def test_a_file_is_known_by_its_suffix() -> None:
    assert is_onnx("a/b.ONNX")
    assert not is_onnx("onnx/model.safetensors")


def test_a_session_runs_on_the_cpu_with_torchs_threads(install: Install, onnx_file: Path) -> None:
    runtime = install(Session())
    network = open_onnx(onnx_file)
    assert runtime.options.intra_op_num_threads == torch.get_num_threads()
    assert runtime.providers == ["CPUExecutionProvider"]
    assert (network.batch, network.shape, network.classes) == (None, (3, 32, 32), 3)
    assert len(network.origin.sha256) == 64
    images = torch.randn(5, 3, 32, 32).to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images), images.mean((2, 3)))


def test_a_fixed_batch_is_filled_up(install: Install, onnx_file: Path) -> None:
    session = Session(batch=4)
    install(session)
    images = torch.randn(10, 3, 32, 32)
    torch.testing.assert_close(open_onnx(onnx_file)(images), images.mean((2, 3)))
    assert session.calls == [4, 4, 4]


@pytest.mark.parametrize(
    ("session", "kind", "words"),
    [
        (None, CheckpointError, "cannot read it"),
        (Session(sizes=(3,)), ArchitectureError, "no single float batch"),
        (Session(kind="tensor(uint8)"), ArchitectureError, "uint8"),
        (Session(outputs=[["batch", 3], ["batch", 5]]), ArchitectureError, "no single batch"),
        (Session(outputs=[["batch", 3, 8, 8]]), ArchitectureError, "of logits"),
    ],
)
def test_files_that_are_no_classifiers_are_refused(
    install: Install, onnx_file: Path, session: Session | None, kind: type[ResPruneError], words: str
) -> None:
    install(session)
    with pytest.raises(kind, match=words) as caught:
        open_onnx(onnx_file)
    assert caught.value.where == str(onnx_file)
    assert caught.value.hint


ABOUT = {"resprune": "resprune/export/1", "class_names": '["a", "b", "c"]'}
SIZE = {"channels": 3, "height": 32, "width": 32, "mean": [0.5] * 3, "std": [0.2] * 3}


def test_what_an_export_says_of_itself_is_read(install: Install, onnx_file: Path) -> None:
    recipe = Preprocessing(3, 32, 32, (0.5,) * 3, (0.2,) * 3, source="test")
    install(Session(about=ABOUT | {"preprocessing": json.dumps(recipe.to_json())}))
    network = open_onnx(onnx_file)
    assert network.preprocessing is not None
    assert network.preprocessing.to_json() == recipe.to_json()
    assert network.class_names == ("a", "b", "c")
    install(Session(about={"preprocessing": "of another program"}))
    assert open_onnx(onnx_file).preprocessing is None


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"preprocessing": "{"},
        {"preprocessing": "[]"},
        {"preprocessing": json.dumps(SIZE | {"std": [0, 0, 0]})},
    ],
)
def test_damaged_metadata_are_refused(install: Install, onnx_file: Path, about: dict[str, str]) -> None:
    install(Session(about=ABOUT | about))
    with pytest.raises(CheckpointError, match="metadata are damaged") as caught:
        open_onnx(onnx_file)
    assert caught.value.hint == "export the network again"


def test_more_names_than_logits_are_refused(install: Install, onnx_file: Path) -> None:
    recipe = Preprocessing(3, 32, 32, (0.5,) * 3, (0.2,) * 3, source="test")
    install(Session(about=ABOUT | {"preprocessing": json.dumps(recipe.to_json()), "class_names": '["a"]'}))
    with pytest.raises(CheckpointError, match="1 class names for 3 logits"):
        open_onnx(onnx_file)


def test_a_failing_run_says_which_file(install: Install, onnx_file: Path) -> None:
    install(Session(fail=True))
    network = open_onnx(onnx_file)
    with pytest.raises(ArchitectureError, match="Non-zero status code") as caught:
        network(torch.zeros(1, 3, 32, 32))
    assert caught.value.where == str(onnx_file)


def test_a_missing_file_is_refused(install: Install, tmp_path: Path) -> None:
    install(Session())
    with pytest.raises(CheckpointError, match="No such file"):
        open_onnx(tmp_path / "none.onnx")


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, install: Install, missing: str) -> None:
    install(Session())
    monkeypatch.setitem(sys.modules, missing, None)
    chain = make_chain(ARCHITECTURES["cifar option B"])
    with pytest.raises(UsageError, match=missing) as caught:
        ready(chain, "onnxruntime", make_images(chain, 1))
    assert caught.value.hint == "pip install 'resprune[onnx]'"


def test_onnx_runtime_is_not_used_on_other_devices(install: Install, onnx_file: Path) -> None:
    install(Session())
    assert isinstance(open_network(onnx_file, device="auto"), OnnxNetwork)
    with pytest.raises(UsageError, match="CPU only"):
        open_network(onnx_file, device="cuda")


def test_eager_is_the_network_itself() -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    assert ready(chain, "eager", make_images(chain, 1)) is chain.network


def test_a_network_that_is_being_trained_is_refused() -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    chain.network.train()
    with pytest.raises(UsageError, match="training mode"):
        ready(chain, "eager", make_images(chain, 1))


def test_an_unknown_mode_is_refused() -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    with pytest.raises(UsageError, match="'fast'"):
        ready(chain, "fast", make_images(chain, 1))


def test_compiling_happens_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(torch, "compile", lambda network: calls.append)
    images = make_images(chain, 1)
    ready(chain, "compiled", images)
    assert calls == [images]


def test_what_compilers_keep_of_other_networks_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, after some networks in a process, they run those that follow eagerly."""
    chain = make_chain(ARCHITECTURES["cifar option B"])
    log: list[str] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: log.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda network: log.append("compile") or network)
    resprune.bench(chain, chain, mode="compiled", rounds=1)
    assert log == ["reset", "compile", "compile"]


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: torch.nn.Module) -> None:
        raise RuntimeError("\nno C++ compiler found\nSet CXX")

    monkeypatch.setattr(torch, "compile", fail)
    chain = make_chain(ARCHITECTURES["cifar option B"])
    with pytest.raises(UsageError, match="compiled \\(no C\\+\\+ compiler found\\)") as caught:
        ready(chain, "compiled", make_images(chain, 1))
    assert "\n" not in str(caught.value)


def test_onnx_runtime_gives_the_same_logits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    chain = make_chain(ARCHITECTURES["cifar option B"])
    images = make_images(chain, 2)
    expected = chain(images)
    torch.testing.assert_close(ready(chain, "onnxruntime", images)(images), expected, rtol=1e-4, atol=1e-4)
    outcome = resprune.bench(chain, mode="onnxruntime", rounds=2)
    assert (outcome.first.mode, outcome.first.peak_bytes) == ("onnxruntime", None)
