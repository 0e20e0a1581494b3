"""What a run is given to compute on: processes, devices, their shares of a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from training import RECIPE

from resprune import devices, training
from resprune.errors import UsageError
from resprune.training import Plan
from resprune.training.engine import _own_device


def test_every_process_reads_its_share_of_every_batch() -> None:
    recipe = replace(RECIPE, batch_size=12, accumulate=2, epochs=2)
    alone, shared = Plan.of(recipe, 50, 1), Plan.of(recipe, 50, 3)
    assert (alone.steps_an_epoch, alone.steps, alone.part, shared.part) == (4, 8, 6, 2)
    for epoch in range(2):
        batches = _joined(alone.keys(epoch, 0, 0))
        shares = [_joined(shared.keys(epoch, 0, rank)) for rank in range(3)]
        for step, batch in enumerate(batches):
            assert sorted(batch) == sorted(key for share in shares for key in share[step])
        seen = [index for batch in batches for index, _ in batch]
        assert len(set(seen)) == len(seen) == 48
        assert alone.keys(epoch, 2, 0) == alone.keys(epoch, 0, 0)[4:]
    assert alone.keys(0, 0, 0) != alone.keys(1, 0, 0)


def _joined(parts: list[list[tuple[int, int]]]) -> list[list[tuple[int, int]]]:
    """Join every two parts to what a process reads of one batch."""
    return [first + second for first, second in zip(parts[::2], parts[1::2], strict=True)]


def test_what_is_asked_for_is_what_one_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate keeps one state for the life of a process; the GPUs of this one are pretended."""
    monkeypatch.setattr(devices, "_compute", lambda device: 0.0)
    for name in ("cpu", "cuda", "cpu", "cuda:1", "cuda", "cpu", "auto", "cpu"):
        best = "cuda" if torch.cuda.is_available() else "cpu"
        assert training.engine(name).device == torch.device(best if name == "auto" else name)
    # A launcher's processes have met on one kind of device, and cannot be moved to another.
    monkeypatch.setitem(PartialState._shared_state, "distributed_type", DistributedType.MULTI_CPU)
    with pytest.raises(UsageError, match="train on cpu already, and not on cuda; train on the other device in"):
        training.engine("cuda")


def test_an_accelerator_of_the_callers_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    training.engine("cpu")
    monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "bf16")
    with pytest.raises(
        UsageError, match=r"an Accelerator of its own already \(.*make that one with mixed_prec"
    ):
        training.engine("cpu")


def test_a_launcher_gives_every_process_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(devices, "_compute", lambda device: tried.append(str(device)))
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UsageError, match="'cuda:1' is asked for, and the launcher gives every process its own"):
        training.engine("cuda:1")
    for gpus in (2, 0):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
        for name in ("auto", "cuda", "cpu"):
            _own_device(name)
    assert tried == ["cuda:1", "cuda:1", "cpu", "cpu", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    _own_device("auto")
    assert tried[-1] == "cpu"
    with pytest.raises(UsageError, match="'cuda' is asked for, and the launcher"):
        training.engine("cuda")


def test_gradients_are_the_same_whatever_a_launcher_says_of_accumulation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = torch.ones(1, requires_grad=True)
    training.engine("cpu").backward(3 * weight.sum())
    assert weight.grad is not None
    assert weight.grad.item() == 3


@pytest.mark.parametrize("name", ["cpu:0", "mps", "meta", "cuda:", "cuda:x", "gpu"])
def test_devices_that_nothing_can_be_trained_on(name: str) -> None:
    with pytest.raises(UsageError, match="nothing can be trained on device"):
        training.engine(name)


def test_devices_without_double_precision_are_refused() -> None:
    with pytest.raises(UsageError, match=r"device .mps. is not supported; use --device auto, cpu"):
        devices.usable("mps")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"device 'cuda:99' cannot be used .*; use --device cpu"):
        training.engine("cuda:99")


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be cut into 3 process"):
        Plan.of(replace(RECIPE, batch_size=16), 50, 3)
