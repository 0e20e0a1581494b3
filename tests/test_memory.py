"""Where memory lacks, work is done with half as many images at once, and the result is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from torch import Tensor, nn
from training import RECIPE, coloured, opened, same_tensors, tiny_chain

from resprune import choosing, judging
from resprune.chain import ResidualChain
from resprune.checking import check
from resprune.data import open_data
from resprune.errors import ArchitectureError
from resprune.memory import halving, is_out_of_memory
from resprune.reading import silent
from resprune.records import Budget, EpochRow, Limits, Origin, PrunePlan
from resprune.running import OnnxNetwork
from resprune.sensitivity import order_removals
from resprune.surgery import remove_blocks
from resprune.training import Listener, train
from resprune.training.student import Student

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
SHORT = replace(RECIPE, gamma=0.1, epochs=1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"))


class Heavy(nn.Module):
    """A stem that has memory for few images."""

    def __init__(self, stem: nn.Module, most: int) -> None:
        super().__init__()
        self.stem, self.most = stem, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise NO_MEMORY
        return self.stem(x)


def heavy(chain: ResidualChain, most: int) -> ResidualChain:
    return replace(chain, stem=Heavy(chain.stem, most))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "HIP error: out of memory",
        "MPS backend out of memory (MPS allocated: 17.90 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
    ],
)
def test_memory_that_ends_is_known_by_its_words(words: str) -> None:
    def attempt(size: int) -> int:
        if size > 3:
            raise RuntimeError(words)
        return size

    assert halving(attempt, 12, "test") == 3
    assert not is_out_of_memory(ValueError(words))


@pytest.mark.parametrize(
    "words", ["CUDA error: an illegal memory access was encountered", "cuDNN error: CUDNN_STATUS_BAD_PARAM"]
)
def test_other_errors_are_raised_at_once(words: str) -> None:
    sizes: list[int] = []

    def attempt(size: int) -> None:
        sizes.append(size)
        raise RuntimeError(words)

    with pytest.raises(RuntimeError, match=words):
        halving(attempt, 12, "test")
    assert sizes == [12]


# Training


def limit_training(monkeypatch: pytest.MonkeyPatch, most: int, free: int = 0) -> None:
    """Let a forward pass in training fail with more images, but for the first ``free`` ones.

    It fails in the end, when all norms have changed their statistics already.
    """
    forward, passes = Student.forward, 0

    def limited(self: Student, images: Tensor) -> Any:
        nonlocal passes
        out = forward(self, images)
        if self.training:
            passes += 1
            if len(images) > most and passes > free:
                raise NO_MEMORY
        return out

    monkeypatch.setattr(Student, "forward", limited)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_without_memory_is_taken_in_parts(
    optimizer: Any, images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = replace(SHORT, optimizer=optimizer)
    whole = train(tiny_chain(), opened(images), replace(recipe, accumulate=2), teacher=tiny_chain(1))
    limit_training(monkeypatch, 8)
    halved = train(tiny_chain(), opened(images), recipe, teacher=tiny_chain(1))
    assert same_tensors(halved.chain, whole.chain)
    assert without_time(halved.rows[-1]) == without_time(whole.rows[-1])
    # Once: the run stays with what fits.
    message = "train: out of memory with batches of 16, trying 8; batch norms see no more at a time"
    assert told(caplog) == [message]


def without_time(row: EpochRow) -> EpochRow:
    return replace(row, seconds=0.0, images_per_second=None)


def test_what_a_part_left_before_memory_ended_is_taken_back(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two parts has added its gradients by then."""
    whole = train(tiny_chain(), opened(images), replace(SHORT, batch_size=32, accumulate=4))
    limit_training(monkeypatch, 8, free=1)
    halved = train(tiny_chain(), opened(images), replace(SHORT, batch_size=32, accumulate=2))
    assert same_tensors(halved.chain, whole.chain)


def test_parts_of_a_mixed_batch_are_mixed_as_one(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without norms that look at the batch a step in parts is the step."""
    recipe = replace(SHORT, gamma=0.0, mixup=0.4, cutmix=0.4, steps=1, hold_out=0.0)
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: x)
    whole = train(tiny_chain(), opened(images, recipe), recipe).chain
    limit_training(monkeypatch, 8)
    halved = train(tiny_chain(), opened(images, recipe), recipe).chain
    for name, tensor in whole.network.state_dict().items():
        torch.testing.assert_close(halved.network.state_dict()[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_parts_too_small_for_a_norm_are_not_tried(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit_training(monkeypatch, 4)
    with pytest.raises(torch.OutOfMemoryError):
        train(tiny_chain(), opened(images), SHORT)
    assert len(told(caplog)) == 1


def test_epochs_are_measured_on_smaller_batches(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[EpochRow] = []
    listener = Listener(on_epoch=lambda found: rows.append(found[-1]))
    train(tiny_chain(), opened(images), SHORT, listener=listener)
    forward = Student.forward

    def limited(self: Student, batch: Tensor) -> Any:
        if not self.training and len(batch) > 5:
            raise NO_MEMORY
        return forward(self, batch)

    monkeypatch.setattr(Student, "forward", limited)
    again = train(tiny_chain(), opened(images), SHORT).rows
    for one, other in zip(rows, again, strict=True):
        assert one.final is not None
        assert other.final is not None
        assert (one.final.accuracy, one.score) == (other.final.accuracy, other.score)
        assert one.final.loss == pytest.approx(other.final.loss)


# Choosing blocks


@pytest.mark.parametrize("options", [{}, {"compensated": True}, {"rank": "gates", "effort": 0.5}])
def test_blocks_are_chosen_on_smaller_batches(
    options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    batches = [make_images(chain, 12), make_images(chain, 5, seed=2)]
    whole = order_removals(chain, batches, count=4, **options)
    fewer = order_removals(heavy(chain, 4), batches, count=4, **options)
    assert told(caplog) == [
        "choose blocks: out of memory with batches of 12, trying 6",
        "choose blocks: out of memory with batches of 6, trying 3",
    ]
    # Gates draw a random vector for every batch, and fits look at other pixels of the images.
    alike = 0 if "rank" in options else 1 if options else 4
    assert [removal.index for removal in fewer[:alike]] == [removal.index for removal in whole[:alike]]
    if alike == 4:
        assert [own.divergence for own in fewer] == pytest.approx([own.divergence for own in whole], rel=1e-4)


def test_memory_that_ends_amid_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    batches = [make_images(chain, 12)]
    whole = order_removals(chain, batches, count=3)
    passes = 0

    def limited(self: Heavy, x: Tensor) -> Tensor:
        nonlocal passes
        passes += 1
        if passes > 3 and len(x) > 6:
            raise NO_MEMORY
        return self.stem(x)

    monkeypatch.setattr(Heavy, "forward", limited)
    fewer = order_removals(heavy(chain, 0), batches, count=3)
    assert [removal.index for removal in fewer] == [removal.index for removal in whole]


def test_a_budget_is_judged_on_smaller_batches(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chain, logits = tiny_chain(), judging.Judge._logits
    budget, reading = Budget(max_drop=100.0), {"split": "train", "recover": False}
    chosen = choosing.choose_for(chain, images, budget, **reading)

    def limited(self: judging.Judge, network: ResidualChain, batch: Tensor) -> Tensor:
        if len(batch) > 16:
            raise NO_MEMORY
        return logits(self, network, batch)

    monkeypatch.setattr(judging.Judge, "_logits", limited)
    again = choosing.choose_for(chain, images, budget, **reading)
    assert (again.plan.removed, again.plan.drop) == (chosen.plan.removed, chosen.plan.drop)
    assert told(caplog)[0] == "judge: out of memory with batches of 32, trying 16"


def test_a_frontier_is_judged_on_smaller_batches(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chain = tiny_chain()
    batches = open_data(images, chain.preprocessing, chain.classes, split="train")
    cut = remove_blocks(chain, PrunePlan.without((1,), chain.depth, "a test"))
    expected, logits = judging.Judge(chain, batches, silent)(cut), judging.Judge._logits

    def few(self: judging.Judge, network: ResidualChain, batch: Tensor) -> Tensor:
        if len(batch) > 20 or (network is cut and len(batch) > 10):
            raise NO_MEMORY
        return logits(self, network, batch)

    monkeypatch.setattr(judging.Judge, "_logits", few)
    found = judging.Judge(chain, batches, silent)(cut)
    assert found.evaluation.accuracy == expected.evaluation.accuracy
    assert found.divergence == pytest.approx(expected.divergence)
    assert expected.divergence > 0
    # Once for the original's outputs, which are kept, and once for the network.
    assert [line.split()[-1] for line in told(caplog)] == ["32", "16", "32", "16", "8"]


# Gates and ONNX files


def test_a_gate_without_a_base_lowers_its_batches(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    chain, data = make_chain(ARCHITECTURES["cifar option A"]), image_folder()
    limits = Limits(min_accuracy=0.5)
    found = check(heavy(chain, 6), limits, data=data)
    assert found.figures is not None
    assert found.figures.accuracy == check(chain, limits, data=data).conditions[0].measured
    assert told(caplog)[-1] == "evaluate: out of memory with batches of 10, trying 5"


class Session:
    """An ONNX Runtime session that has memory for few images, and then says so in ONNX Runtime's words."""

    words = (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'' Status"
        " Message: bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool,"
        " onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 40000000000"
    )

    def __init__(self, chain: ResidualChain, most: int) -> None:
        self.chain, self.most = chain, most

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "images"})]

    def run(self, outputs: None, feed: dict[str, Any]) -> list[Any]:
        if len(feed["images"]) > self.most:
            raise Exception(self.words)
        with torch.inference_mode():
            return [self.chain(torch.from_numpy(feed["images"])).numpy()]


def test_an_onnx_file_without_memory(
    image_folder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    chain, data = make_chain(ARCHITECTURES["cifar option A"]), image_folder()
    recipe = chain.preprocessing
    shape, origin = (recipe.channels, recipe.height, recipe.width), Origin("net.onnx", "0" * 64, "ONNX")
    network = OnnxNetwork(origin, Session(chain, 6), None, shape, chain.classes)
    found = check(network, Limits(min_agreement=0.99), chain, data)
    assert found.conditions[0].measured == 1
    assert told(caplog) == [
        "compare: out of memory with batches of 20, trying 10",
        "compare: out of memory with batches of 10, trying 5",
    ]
    network.session.words = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions"
    with pytest.raises(ArchitectureError, match="Got invalid dimensions"):
        check(network, Limits(min_agreement=0.99), chain, data)
