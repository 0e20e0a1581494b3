"""Arguments of the library that are none: refused in one sentence, before anything is read or trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, make_chain
from training import RECIPE, coloured, same_tensors, tiny_chain

import resprune
from resprune import Budget, Recipe
from resprune.errors import UsageError

Call = Callable[[Any, Path], object]

PRUNED_FOR_CHAIN: dict[str, Call] = {
    "analyze": resprune.analyze,
    "evaluate": resprune.evaluate,
    "prune": lambda own, data: resprune.prune(own, resprune.select(depth=1, blocks=3)),
    "choose_for": lambda own, data: resprune.choose_for(own, data, Budget(macs=0.9)),
    "frontier": resprune.frontier,
    "compare": lambda own, data: resprune.compare(own, own),
    "bench": lambda own, data: resprune.bench(own),
    "export": lambda own, data: resprune.export(own, data / "x", "safetensors"),
    "finetune": resprune.finetune,
    "heal": lambda own, data: resprune.heal(own, own.chain, data),
}


@pytest.mark.parametrize("name", PRUNED_FOR_CHAIN)
def test_what_holds_a_chain_is_no_chain(name: str, tmp_path: Path) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    pruned = resprune.prune(chain, resprune.select(depth=chain.depth - 1, blocks=chain.depth))
    with pytest.raises(UsageError, match=r"^expected a ResidualChain, got Pruned; give the Pruned's \.chain$"):
        PRUNED_FOR_CHAIN[name](pruned, tmp_path)


def test_what_is_saved_was_pruned(tmp_path: Path) -> None:
    chain: Any = make_chain(ARCHITECTURES["cifar option A"])
    with pytest.raises(UsageError, match=r"expected what resprune\.prune returned, got ResidualChain"):
        resprune.save(chain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8"])
def test_numbers_of_images_are_whole_and_positive(
    value: Any, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, data = make_chain(ARCHITECTURES["cifar option A"]), image_folder(each=2)
    calls: dict[str, Callable[[], object]] = {
        "batch_size": lambda: resprune.evaluate(chain, data, batch_size=value),
        "samples": lambda: resprune.evaluate(chain, data, samples=value),
        "latency_batch": lambda: resprune.choose_for(chain, data, Budget(speedup=1.1), latency_batch=value),
        "heal_rounds": lambda: resprune.prune(
            chain, resprune.select(depth=1, blocks=chain.depth), data, heal_rounds=value
        ),
        "control_seeds": lambda: resprune.prune(
            chain, resprune.select(depth=1, blocks=chain.depth), data, controls=["random"], control_seeds=value
        ),
        "rounds": lambda: resprune.bench(chain, rounds=value),
    }
    for name, call in calls.items():
        with pytest.raises(UsageError, match=f"^{name} must be (a whole number|at least 1), got {value!r}$"):
            call()
    assert resprune.evaluate(chain, data, batch_size=np.int64(3))[0].samples == 2 * chain.classes


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"steps": "3"}, "steps must be a number, got '3'"),
        ({"rate": "0.1"}, "rate must be a number, got '0.1'"),
        ({"gamma": float("nan")}, "gamma must be a finite number, got nan"),
        ({"clip": float("inf")}, "clip must be a finite number, got inf"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"hold_out": 1.0}, "hold_out must be from 0 to below 1, got 1"),
    ],
)
def test_a_recipe_holds_numbers(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Recipe(**fields)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("fields", [{"macs": "0.5"}, {"speedup": float("nan")}, {"max_drop": True}])
def test_a_budget_holds_numbers(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(fields))} must be a (finite )?number, got "):
        Budget(**fields)


@pytest.mark.parametrize("teacher", ["none", "resnet20.th"])
def test_a_teacher_is_a_chain(teacher: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a ResidualChain, got str"):
        resprune.finetune(tiny_chain(), coloured(tmp_path), teacher=teacher, recipe=RECIPE)


def test_states_are_learned_from_a_teacher_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="learns from the states of a teacher, and there is none"):
        resprune.finetune(tiny_chain(), coloured(tmp_path), teacher=None, recipe=resprune.RECIPES["heal"])


def test_workers_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers must be at least 0, got -1"):
        resprune.finetune(tiny_chain(), coloured(tmp_path), recipe=RECIPE, workers=-1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_trains_the_same(mode: Callable[[], Any], tmp_path: Path) -> None:
    data = coloured(tmp_path)
    expected = resprune.finetune(tiny_chain(), data, recipe=RECIPE, device="cpu").chain
    with mode():
        found = resprune.finetune(tiny_chain(), data, recipe=RECIPE, device="cpu").chain
    assert same_tensors(found, expected)
