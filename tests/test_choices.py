"""A choice is carried out as it was judged, or refused; and controls differ from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from conftest import ARCHITECTURES, make_chain, make_images
from training import RECIPE, coloured, same_tensors, tiny_chain

import resprune
from resprune import trajectory
from resprune.controls import random_plans
from resprune.errors import UsageError
from resprune.records import RECIPES, Budget, DataSummary
from resprune.report.wording import held_out

HEAL = replace(RECIPES["heal"], batch_size=16, steps=1, hold_out=0.2)


def test_without_images_the_network_that_was_judged_is_given(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    choice = resprune.choose_for(chain, image_folder(each=6), Budget(max_drop=100, macs=0.8), device="cpu")
    pruned = resprune.prune(chain, choice)
    assert choice.restored is not None
    assert pruned.chain is choice.restored.network
    assert len(pruned.outcome.recovered) == len(choice.restored.steps) > 0
    resprune.prune(chain, choice.plan)  # what was judged of the plan alone is no part of it


def test_a_choice_is_not_carried_out_otherwise(image_folder: Callable[..., Path]) -> None:
    chain, data = make_chain(ARCHITECTURES["cifar option A"]), image_folder(each=6)
    budget = Budget(max_drop=100)
    choice = resprune.choose_for(chain, data, budget, device="cpu")
    with pytest.raises(UsageError, match="the choice was judged on another network; give the one that"):
        resprune.prune(make_chain(ARCHITECTURES["cifar option A"], 1), choice, data)
    for controls in ((), ("scratch",)):
        with pytest.raises(UsageError, match="judged before any healing; give choose_for the recipe, or"):
            resprune.prune(chain, choice, data, heal=HEAL, controls=controls)
    with pytest.raises(UsageError, match="judged after a recovery; give choose_for recover=False, or"):
        resprune.prune(chain, choice, data, recover=False)
    bare = resprune.choose_for(chain, data, budget, recover=False, device="cpu")
    assert resprune.prune(chain, bare, data, recover=False).outcome.recovered == ()


def test_a_choice_that_was_healed_needs_no_second_recipe(image_folder: Callable[..., Path]) -> None:
    chain, data = make_chain(ARCHITECTURES["cifar option A"]), image_folder(each=6)
    epochs = list[int]()
    choice = resprune.choose_for(
        chain,
        data,
        Budget(max_drop=100),
        heal=HEAL,
        device="cpu",
        on_epoch=lambda row: epochs.append(row.epoch),
    )
    assert epochs[:2] == [0, 1]
    with pytest.raises(UsageError, match="judged after a healing by another recipe"):
        resprune.prune(chain, choice, data, heal=replace(HEAL, steps=2))
    pruned = resprune.prune(chain, choice, data, controls=["scratch"], control_seeds=1)
    assert [control.kind for control in pruned.outcome.controls] == ["scratch"]


def test_random_plans_leave_the_plan_itself_out() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    every = {plan.removed for plan in random_plans(chain, 1, 100).values()}
    others = {plan.removed for plan in random_plans(chain, 1, 100, but=(1,)).values()}
    assert others == every - {(1,)}
    assert random_plans(chain, chain.depth, 3, but=tuple(range(chain.depth))) == {}


def odd(value: object) -> Any:
    """What the annotations do not allow."""
    return value


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda chain, data: resprune.prune(chain, odd([0, 4])),
            "plan must be a PrunePlan or Choice, got [0, 4]",
        ),
        (lambda chain, data: resprune.prune(chain, odd(None)), "plan must be a PrunePlan or Choice, got None"),
        (
            lambda chain, data: resprune.prune(chain, resprune.select(depth=1, blocks=4), data, heal=odd(2)),
            "heal must be a Recipe, got 2; for example resprune.RECIPES",
        ),
        (
            lambda chain, data: resprune.choose_for(chain, data, odd({"macs": 0.5})),
            "budget must be a Budget, got {'macs': 0.5}; for example resprune.Budget(",
        ),
        (
            lambda chain, data: resprune.choose_for(chain, data, Budget(macs=0.5), heal=odd("heal")),
            "heal must be a Recipe, got 'heal'",
        ),
        (
            lambda chain, data: resprune.finetune(chain, data, recipe=odd("heal")),
            "recipe must be a Recipe, got 'heal'; for example",
        ),
        (
            lambda chain, data: resprune.select(depth=odd(2.5), blocks=4),
            "depth must be a whole number, got 2.5",
        ),
        (
            lambda chain, data: resprune.select(tol=odd("a"), blocks=4),
            "the tolerance must be a number >= 0, got a",
        ),
    ],
)
def test_arguments_of_another_kind_are_named(call: Callable[[Any, Path], object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(tiny_chain(), Path("nowhere"))
    assert str(caught.value).startswith(told)


def test_a_network_does_not_learn_from_itself_alone(tmp_path: Path) -> None:
    data = coloured(tmp_path)
    with pytest.raises(UsageError, match=r"learn from itself alone.*name the one that it was pruned from"):
        resprune.finetune(tiny_chain(), data, recipe=HEAL, device="cpu")
    labels_too = replace(HEAL, teacher_weight=0.5)
    assert resprune.finetune(tiny_chain(), data, recipe=labels_too, device="cpu").outcome.rows


def test_a_teacher_without_weight_is_none(tmp_path: Path) -> None:
    recipe = replace(RECIPE, teacher_weight=0.0, steps=1)
    outcome = resprune.finetune(tiny_chain(), coloured(tmp_path), recipe=recipe, device="cpu").outcome
    assert outcome.teacher is None
    assert outcome.rows[-1].train_distillation is None


def test_the_batch_that_is_told_is_the_one_that_was_used(tmp_path: Path) -> None:
    data, options = coloured(tmp_path / "data"), {"device": "cpu", "out": tmp_path / "out"}
    recipe = replace(RECIPE, batch_size=200, steps=2)
    tuned = resprune.finetune(tiny_chain(), data, recipe=recipe, **options)
    assert tuned.outcome.held_out is not None
    left = tuned.outcome.data.samples
    assert tuned.outcome.recipe.batch_size == left < 200
    assert f"batches of {left}" in (tmp_path / "out" / "README.md").read_text()
    again = resprune.finetune(tiny_chain(), data, recipe=recipe, resume=True, **options)
    assert same_tensors(again.chain, tuned.chain)


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ("train", "1 training image held out; the test images were not looked at"),
        (None, "1 training image held out"),
        ("validation", "1 validation image held out; the test images were not looked at"),
        ("test", "1 image held out of the test images, on which it was trained"),
    ],
)
def test_what_an_epoch_was_chosen_on_is_told_as_it_is(split: str | None, told: str) -> None:
    assert held_out(DataSummary("images", split, 1)) == told


def test_figures_are_of_full_float32() -> None:
    """On a GPU the figures before and after would else be of different precisions."""
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images, seen = make_images(chain, 2), list[str]()
    cudnn: Any = torch.backends.cudnn
    for measure in (trajectory.evaluate, trajectory.measure):
        batches: list[trajectory.Batch] = [(images, torch.zeros(2, dtype=torch.long))]
        measure(chain, batches, on_batch=lambda _: seen.append(cudnn.conv.fp32_precision))
    assert seen == ["ieee", "ieee"]


def test_a_plan_that_was_chosen_on_the_figures_images_says_so(
    image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    whole = resprune.prune(chain, resprune.select(depth=chain.depth, blocks=chain.depth))
    resprune.save(whole, tmp_path / "net", read_back=False)
    image_folder("data/test")
    data = image_folder("data/validation").parent
    asked = ["prune", tmp_path / "net", "--data", data, "--target-macs", 0.9, "--no-recover"]
    note = "Note: the plan was chosen on images that the figures are measured on."
    assert note in run(*asked, "--out", tmp_path / "one", "--test-split", "validation").output
    assert note not in run(*asked, "--out", tmp_path / "other").output
