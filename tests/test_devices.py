"""What must hold on GPUs, tested without one: what torch is asked and told, and where networks are put."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training import RECIPE, tiny_chain

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
