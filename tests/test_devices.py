"""What must hold on GPUs, tested without one: what torch is asked and told, and where networks are put."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from own import RECIPE as OWN_RECIPE
from own import BuiltFamily, own
from torch.nn import functional
from training import RECIPE, tiny_chain

import resprune
from resprune import loading, surgery
from resprune.checks import check_network, check_split, full_float32
from resprune.errors import UsageError
from resprune.records import Preprocessing, PrunePlan
from resprune.testing import assert_equivalent
from resprune.training import learner
from resprune.training.schedule import Plan
from resprune.training.student import Student
from resprune.verify import verify

# bfloat16


@pytest.mark.parametrize("native", [True, False])
def test_training_takes_bf16_where_a_gpu_has_it_and_does_not_emulate_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_the_cpu(chain: Any, heads: Any, device: torch.device, **kinds: Any) -> Student:
        return Student(chain, heads, torch.device("cpu"), **kinds)

    current = list[torch.device]()

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    def is_supported(including_emulation: bool = True) -> bool:
        assert current == [torch.device("cuda:1")]  # torch asks the current device
        return native or including_emulation

    monkeypatch.setattr(learner, "Student", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    engine: Any = SimpleNamespace(device=torch.device("cuda:1"), prepare=lambda student: student)
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


# All bits of float32


CUDNN: Any = torch.backends.cudnn
MATMUL: Any = torch.backends.cuda.matmul


def precisions() -> tuple[str, str]:
    return CUDNN.conv.fp32_precision, MATMUL.fp32_precision


@pytest.fixture(params=["as torch has it", "by its older names", "by its newer names"])
def precise(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """What torch is set to, by whatever names it was."""
    before = precisions()
    if request.param == "by its older names":
        MATMUL.allow_tf32 = True
    elif request.param == "by its newer names":
        MATMUL.fp32_precision = "tf32"
    yield precisions()
    if request.param == "by its older names":
        MATMUL.allow_tf32 = False
    CUDNN.conv.fp32_precision, MATMUL.fp32_precision = before


@pytest.mark.filterwarnings("ignore:Please use the new API")  # older torch, of its older names
def test_tf32_is_off_meanwhile_and_put_back(precise: tuple[str, str]) -> None:
    assert precise[0] == "tf32"
    with full_float32():
        assert precisions() == ("ieee", "ieee")
        with full_float32():
            pass
        assert precisions() == ("ieee", "ieee")
    assert precisions() == precise
    with pytest.raises(KeyError), full_float32():
        raise KeyError
    assert precisions() == precise


def test_what_is_compared_is_computed_without_tf32() -> None:
    seen: set[tuple[str, str]] = set()

    def look(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        if not given[0].is_meta:  # where multiply-accumulates are counted
            seen.add(precisions())

    chain, network = make_chain(ARCHITECTURES["cifar option B"]), own()
    plan = PrunePlan.without((chain.depth - 1,), chain.depth, "a test")
    cut, images = surgery.remove_blocks(chain, plan), make_images(chain, 2)
    for module in (*chain.network.modules(), *cut.network.modules(), *network.modules()):
        module.register_forward_pre_hook(look)
    compared: list[Callable[[], object]] = [
        lambda: check_network(chain),
        lambda: check_split(chain),
        lambda: verify(chain, cut, plan, [(images, None)]),
        lambda: resprune.wrap(network, BuiltFamily(), preprocessing=OWN_RECIPE),
        lambda: assert_equivalent(chain, chain, images),
        lambda: assert_equivalent(chain, chain),
    ]
    for compare in compared:
        compare()
        assert seen == {("ieee", "ieee")}
        seen.clear()
    assert precisions()[0] == "tf32"
