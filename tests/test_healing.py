"""Distillation of outputs and of the stages' states, in the loop of fine-tuning."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refusal
from conftest import ARCHITECTURES, divergence, make_chain, make_images
from test_surgery import removing
from torch import Tensor, nn

import resprune
from resprune import healing, pipeline
from resprune.chain import ResidualChain
from resprune.choosing import choose_for
from resprune.controls import check_labels, compare_with
from resprune.counterparts import Counterparts
from resprune.data import Batches, open_data
from resprune.errors import DataError, UsageError
from resprune.healing import HEALING, Healer
from resprune.judging import Judge
from resprune.records import RECIPES, Budget, EpochRow, Evaluation, PrunePlan, Recipe, Recovery
from resprune.restoration import Restoration
from resprune.stage_cost import feature_loss
from resprune.surgery import remove_blocks
from resprune.training import learner


def quiet(description: str, images: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda done: None)


@torch.inference_mode()
def test_states_are_those_behind_so_many_parts(chain: ResidualChain) -> None:
    images = make_images(chain, 3)
    x = chain.stem(images)
    seen = [x, *(x := part.module(x) for part in chain.parts)]
    wanted = (0, 2, 2, len(chain.parts))
    logits, states = chain.with_states(images, wanted)
    torch.testing.assert_close(logits, chain(images))
    for count, state in zip(wanted, states, strict=True):
        torch.testing.assert_close(state, seen[count])


@torch.inference_mode()
def test_states_that_are_to_be_alike_have_the_same_shapes(chain: ResidualChain) -> None:
    images, plan = make_images(chain, 2), removing(chain, *range(1, chain.depth))
    pruned = remove_blocks(chain, plan)
    for own, known, least in (
        (pruned, plan, len(pruned.parts)),
        (pruned, None, len(chain.architecture.stages)),
        (chain, None, len(chain.parts)),
    ):
        alike = Counterparts.of(own, chain, known)
        assert len(alike.own) >= least
        states, taught = own.with_states(images, alike.own)[1], chain.with_states(images, alike.taught)[1]
        assert [state.shape for state in states] == [state.shape for state in taught]


def test_the_loss_of_features_is_relative() -> None:
    target = [torch.full((2, 3, 4, 4), 2.0), torch.ones(2, 5, 2, 2)]
    own = [torch.full((2, 3, 4, 4), 3.0), torch.zeros(2, 5, 2, 2)]
    assert float(feature_loss(own, target)) == pytest.approx((0.25 + 1.0) / 2)
    assert float(feature_loss([10 * x for x in own], [10 * x for x in target])) == pytest.approx(0.625)
    assert float(feature_loss(target, target)) == 0
    halves = [[x.bfloat16() * 1.01 for x in states] for states in (own, target)]
    assert feature_loss(*halves).dtype == torch.float32
    assert float(feature_loss(*halves)) == pytest.approx((0.25 + 1.0) / 2, rel=0.02)


def test_features_and_a_stage_cost_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="gamma 0, or feature_weight 0"):
        Recipe(feature_weight=1.0)
    with pytest.raises(UsageError, match="gamma 0, or feature_weight 0"):
        Recipe(feature_end=1.0)
    assert RECIPES["heal"].gamma == 0


def healer(chain: ResidualChain, images: Path, **changes: object) -> Healer:
    recipe = replace(RECIPES["heal"], batch_size=16, hold_out=0.2, **{"steps": 12} | changes)
    return Healer.open(chain, images, recipe, device="cpu", progress=quiet)


def heal(own: Healer, pruned: ResidualChain, plan: PrunePlan) -> tuple[ResidualChain, Recovery]:
    """Heal a network that lost something."""
    done = own.heal(pruned, plan)
    assert done is not None
    return done


def test_a_device_is_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    chain, images = make_chain(ARCHITECTURES["cifar option A"]), image_folder(each=4)
    monkeypatch.setattr(healing, "open_training", lambda *arguments, **options: pytest.fail("too late"))
    with pytest.raises(UsageError, match="nothing can be trained on device 'cpu:0'"):
        Healer.open(chain, images, RECIPES["heal"], device="cpu:0", progress=quiet)
    wish = ("demo", "--tol", 0.1, "--heal", 1, "--device", "cpu:0", "--out", tmp_path / "out")
    monkeypatch.setattr(pipeline, "choose", lambda *arguments, **options: pytest.fail("too late"))
    assert "nothing can be trained on device 'cpu:0'; use --device auto" in refusal(2, "prune", *wish)


def test_a_pruned_network_comes_closer_to_the_original(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    pruned = remove_blocks(chain, removing(chain, 1, 4))
    before = {name: tensor.clone() for name, tensor in pruned.network.state_dict().items()}
    healed, record = heal(healer(chain, image_folder(each=10), rate=0.002), pruned, removing(chain, 1, 4))
    assert (record.kind, record.kept, record.images, record.held_out) == (HEALING, True, 80, 20)
    assert record.after < record.before
    assert healed.architecture == pruned.architecture
    assert all(torch.equal(tensor, before[name]) for name, tensor in pruned.network.state_dict().items())
    assert not healed.network.training


def test_states_behind_all_blocks_that_stayed_are_compared(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, compared = make_chain(ARCHITECTURES["cifar option B"]), list[int]()
    plan, images = removing(chain, 1, 4), image_folder(each=10)
    pruned = remove_blocks(chain, plan)

    def count(own: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        compared.append(len(own))
        return feature_loss(own, taught)

    monkeypatch.setattr(learner, "feature_loss", count)
    healer(chain, images, steps=1).heal(pruned, plan)
    resprune.heal(pruned, chain, images, plan=plan, recipe=replace(RECIPES["heal"], steps=1), device="cpu")
    assert compared == [len(pruned.parts)] * 2
    compared.clear()
    resprune.heal(pruned, chain, images, recipe=replace(RECIPES["heal"], steps=1), device="cpu")
    assert compared == [len(chain.architecture.stages)]


@pytest.mark.parametrize(
    ("start", "end", "means"),
    [(0.0, 90.0, [20.0, 70.0]), (90.0, 0.0, [70.0, 20.0]), (45.0, None, [45.0, 45.0])],
)
def test_the_weight_of_the_states_goes_from_one_to_the_other(
    start: float,
    end: float | None,
    means: list[float],
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The states' distance is one throughout, so what the objective has beyond the outputs' is its weight."""
    chain, rows = make_chain(ARCHITECTURES["cifar option A"]), list[EpochRow]()
    plan = removing(chain, 1, 4)
    monkeypatch.setattr(learner, "feature_loss", lambda own, taught: 0 * own[-1].sum() + 1)
    weights = {"feature_weight": start, "feature_end": end}
    own = healer(chain, image_folder(each=10), steps=10, branch_decay=0.0, **weights)
    replace(own, on_epoch=rows.append).heal(remove_blocks(chain, plan), plan)
    done = [(row.objective, row.train_distillation) for row in rows[1:]]
    beyond = [objective - distillation for objective, distillation in done if objective and distillation]
    assert beyond == pytest.approx(means, rel=1e-4)


def test_a_healing_that_does_harm_is_not_kept(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    pruned = remove_blocks(chain, removing(chain, 1))
    own = healer(chain, image_folder(each=10), teacher_weight=0.0, feature_weight=0.0, rate=0.5)
    healed, record = heal(own, pruned, removing(chain, 1))
    assert not record.kept
    assert healed is pruned


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [(math.nan, 0.1, True), (math.nan, math.nan, False), (0.1, math.nan, False), (0.2, 0.1, True)],
)
def test_what_has_no_finite_logits_can_only_be_healed(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, before: float, after: float, kept: bool
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    plan, told = removing(chain, 1), iter((before, after))
    monkeypatch.setattr(Judge, "divergence", lambda judge, network: next(told))
    own = healer(chain, image_folder(each=10), steps=1)
    assert heal(own, remove_blocks(chain, plan), plan)[1].kept == kept


def test_from_scratch_nothing_of_the_weights_is_left(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    pruned = remove_blocks(chain, removing(chain, 1, 4))
    own = healer(chain, image_folder(each=10))
    first, second = own.from_scratch(pruned, 5), own.from_scratch(pruned, 6)
    names = [name for name, tensor in pruned.network.state_dict().items() if tensor.ndim == 4]
    for name in names:
        weights = [network.network.state_dict()[name].flatten() for network in (pruned, first, second)]
        for one, other in ((0, 1), (1, 2)):
            assert abs(float(torch.corrcoef(torch.stack([weights[one], weights[other]]))[0, 1])) < 0.6, name
    assert first.architecture == pruned.architecture


def test_weights_from_scratch_are_drawn_on_the_cpu(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator is the CPU's, and cannot fill what lies on a GPU: so the network is moved first."""
    chain = make_chain(ARCHITECTURES["cifar option A"])
    own, done = healer(chain, image_folder(each=4)), list[str]()
    monkeypatch.setattr(nn.Module, "cpu", lambda network: done.append("moved"))
    monkeypatch.setattr(healing, "initialise", lambda network, generator: done.append(generator.device.type))
    monkeypatch.setattr(Healer, "_train", lambda self, what, start, recipe, teacher: start)
    own.from_scratch(chain, 5)
    assert done == ["moved", "cpu"]


def restoration(chain: ResidualChain, images: Path, rounds: int, **changes: object) -> Restoration:
    recipe = replace(RECIPES["heal"], batch_size=16, steps=6, hold_out=0.2, rate=0.002, **changes)
    return Restoration.open(chain, images, heal=recipe, rounds=rounds, device="cpu", batch_size=16)


def test_in_rounds_the_blocks_go_in_the_plans_order(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    plan = replace(removing(chain, 1, 4, 6), order=(4, 1, 6))
    cut = remove_blocks(chain, plan)
    own = restoration(chain, image_folder(each=10), 2)
    done = own.restore(cut, plan)
    assert done.network.architecture == cut.architecture
    assert [tried.removed for _, tried in done.steps] == [1, 1, 1, 3, 3, 3]
    assert [tried.kind for _, tried in done.steps[:3]] == [tried.kind for _, tried in done.steps[3:]]
    # The first round is what pruning its blocks alone gives, and the second is cut from its network.
    first = remove_blocks(chain, removing(chain, 4))
    alone = replace(own, rounds=1).restore(first, removing(chain, 4)).network
    after_first = done.steps[2][0]
    images = make_images(chain, 4)
    with torch.inference_mode():
        torch.testing.assert_close(alone(images), after_first(images))
    again = remove_blocks(after_first, removing(after_first, 1, 5))  # 1 and 6 where 4 is gone
    assert done.steps[3][1].before == pytest.approx(divergence(chain, again, _held_out(own)), rel=1e-3)


def _held_out(own: Restoration) -> Batches:
    assert own.images is not None
    return own.images.divide(max(round(len(own.images.source) / 10), 16), own.seed)[0]


def test_more_rounds_than_blocks_are_one_a_block(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    own = restoration(chain, image_folder(each=4), 5)
    plan = removing(chain, 2, 6)
    done = own.restore(remove_blocks(chain, plan), plan)
    assert sorted({tried.removed for _, tried in done.steps}) == [1, 2]
    nothing = removing(chain)
    assert own.restore(chain, nothing).steps == ()
    with pytest.raises(UsageError, match="heal_rounds must be at least 1, got 0"):
        restoration(chain, image_folder("others"), 0)


def test_from_scratch_is_trained_as_long_as_the_healing(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    own = restoration(chain, image_folder(each=4), 5)
    asked = list[int]()
    monkeypatch.setattr(
        Healer, "from_scratch", lambda self, pruned, seed, rounds: (asked.append(rounds), pruned)[1]
    )
    figures = Evaluation(None, None, None, 0)
    compare_with(["scratch"], 1, chain, removing(chain, 2, 6), own, lambda network: figures)
    assert asked == [2]


def test_from_scratch_is_trained_by_the_same_phases(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    data = image_folder(each=4)
    changed = {"steps": None, "epochs": 4, "plain_epochs": 2, "schedule": "steps", "milestones": (1, 3)}
    own, recipes = healer(chain, data, **changed), list[Recipe]()
    monkeypatch.setattr(
        Healer, "_train", lambda self, what, start, recipe, teacher: (recipes.append(recipe), start)[1]
    )
    own.from_scratch(chain, 0, rounds=3)
    (longer,) = recipes
    assert (longer.epochs, longer.plain_epochs, longer.milestones) == (12, 6, (3, 9))


def test_controls_are_brought_back_as_the_chosen_network_was(
    image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    data = image_folder(each=6)
    choice = choose_for(chain, data, Budget(max_drop=100, macs=0.8), device="cpu")
    assert choice.restored is not None
    seen = list[Restoration]()
    monkeypatch.setattr(Restoration, "open", None)  # the images are not opened once more
    restore = Restoration.restore
    monkeypatch.setattr(
        Restoration, "restore", lambda self, cut, plan: (seen.append(self), restore(self, cut, plan))[1]
    )
    pruned = pipeline.prune(chain, choice, data, controls=["random"], control_seeds=2)
    assert pruned.chain is choice.restored.network  # and not brought back once more
    assert len(pruned.outcome.controls) == len(seen) == 2
    assert all(own is choice.restored.by for own in seen)
    assert seen[0].images is not None
    assert seen[0].images.summary.samples == 30  # of 60: the others have judged


def test_nothing_is_healed_or_compared_without_images() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    plan = removing(chain, 1)
    with pytest.raises(UsageError, match="healed on images"):
        pipeline.prune(chain, plan, heal=RECIPES["heal"])
    with pytest.raises(UsageError, match="controls are compared on images"):
        pipeline.prune(chain, plan, controls=["random"])
    with pytest.raises(UsageError, match="no control 'bogus'"):
        pipeline.prune(chain, plan, controls=["bogus"])


def test_images_without_labels_heal_as_labelled_ones_do(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    pruned = remove_blocks(chain, removing(chain, 1, 4))
    tree = image_folder(each=10)
    flat = tree.parent / "flat"
    flat.mkdir()
    for index, file in enumerate(sorted(tree.rglob("*.png"))):
        shutil.copy(file, flat / f"{index:03}.png")  # in the order of the classes
    labelled, unlabelled = (healer(chain, place, rate=0.002, steps=5) for place in (tree, flat))
    assert labelled.images.labelled
    assert not unlabelled.images.labelled
    # The labels choose the epoch, and there is one.
    (one, first), (other, second) = (heal(own, pruned, removing(chain, 1, 4)) for own in (labelled, unlabelled))
    assert (first.before, first.after) == (second.before, second.after)
    for name, tensor in one.network.state_dict().items():
        assert torch.equal(tensor, other.network.state_dict()[name])
    with pytest.raises(DataError, match="there are no labels to train with"):
        healer(chain, flat, teacher_weight=0.9)
    with pytest.raises(DataError, match="no labels for the control from scratch"):
        check_labels(["scratch"], Restoration(chain, None, unlabelled, 0, quiet), own_images(chain, tree))
    with pytest.raises(DataError, match="no labels, and controls are compared by their accuracies"):
        check_labels(["random"], None, own_images(chain, flat))
    check_labels([], None, own_images(chain, flat))


def own_images(chain: ResidualChain, place: Path) -> Batches:
    return open_data(place, chain.preprocessing, chain.classes)


def test_a_network_without_blocks_can_be_healed(image_folder: Callable[..., Path]) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    cut = remove_blocks(chain, removing(chain, *range(chain.depth)))
    assert cut.depth == 0
    healed, tried = heal(healer(chain, image_folder(each=4)), cut, removing(chain, *range(chain.depth)))
    assert tried.kind == HEALING
    assert healed.depth == 0
