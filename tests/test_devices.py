"""What must hold on GPUs, tested without one: what torch is asked and told, and where networks are put."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from conftest import ARCHITECTURES, make_chain
from torch.nn import functional
from training import RECIPE, tiny_chain

import resprune
from resprune import loading
from resprune.errors import UsageError
from resprune.records import Preprocessing
from resprune.training import learner
from resprune.training.schedule import Plan
from resprune.training.student import Student

# bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_training_takes_bf16_where_a_gpu_has_it_and_does_not_emulate_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_the_cpu(chain: Any, heads: Any, device: torch.device, **kinds: Any) -> Student:
        return Student(chain, heads, torch.device("cpu"), **kinds)

    def is_supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(learner, "Student", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    engine: Any = SimpleNamespace(device=torch.device("cuda"), prepare=lambda student: student)
    own = learner.Learner(tiny_chain(), None, RECIPE, Plan.of(RECIPE, 64, 1), engine)
    assert own.bf16 == native


# Trying a device


def test_a_device_is_tried_without_the_network_whose_input_may_have_to_be_large(tmp_path: Path) -> None:
    network = timm.create_model("bat_resnext26ts", num_classes=7)
    torch.save(network.state_dict(), tmp_path / "bat.pth")
    recipe = Preprocessing(3, 256, 256, (0.5,) * 3, (0.25,) * 3, source="test")
    found = resprune.load(tmp_path / "bat.pth", device="cpu:0", preprocessing=recipe)  # not just "cpu"
    assert found.architecture.options["arch"] == "bat_resnext26ts"


def test_a_device_that_takes_tensors_and_cannot_compute_is_refused(
    cifar_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_kernels(*tensors: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with")

    resprune.load(cifar_file, device="cpu:0")
    monkeypatch.setattr(functional, "conv2d", without_kernels)
    monkeypatch.setattr(
        loading, "open_chain", lambda *given, **options: make_chain(ARCHITECTURES["cifar option B"])
    )
    told = r"device 'cpu:0' cannot be used \(CUDA error: no kernel image .* on the device\); use --device cpu"
    with pytest.raises(UsageError, match=told):
        resprune.load(cifar_file, device="cpu:0")
