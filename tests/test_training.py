"""The training loop against plain code, and every promise about where a run ends."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import ARCHITECTURES, make_chain, make_images
from torch import Tensor, nn
from torch.nn import functional as F
from training import RECIPE, coloured, opened, same_tensors, tiny_chain

from resprune import training
from resprune.chain import ResidualChain
from resprune.data import normalise
from resprune.errors import TrainingError, UsageError
from resprune.records import RECIPES, EpochRow, Preprocessing, Recipe
from resprune.stage_cost import vanishing_group
from resprune.training import Listener, Plan, train
from resprune.training import loop as training_loop
from resprune.training.synced import SyncedNorms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coloured(tmp_path_factory.mktemp("images"))


def test_one_image_at_a_time_is_refused_where_a_norm_would_see_one_value() -> None:
    small = replace(tiny_chain(), preprocessing=Preprocessing(3, 2, 2, (0.5,) * 3, (0.25,) * 3))
    recipe = replace(RECIPE, batch_size=4, accumulate=4)
    with pytest.raises(UsageError, match=r"cannot be trained on one image at a time .*larger --batch-size"):
        training.lay_out(small, recipe, 48, 1)
    assert training.lay_out(small, replace(recipe, accumulate=2), 48, 1).part == 2
    assert training.lay_out(tiny_chain(), recipe, 48, 1).part == 1


@pytest.mark.parametrize("rate", [1e12, 1e25, 1e38])
def test_without_held_out_images_the_last_update_is_looked_at(folder: Path, rate: float) -> None:
    recipe, states = replace(RECIPE, steps=1, hold_out=0.0, rate=rate), list[dict[str, Any]]()
    listener = Listener(on_state=states.append)
    with pytest.raises(TrainingError, match=r"output is not finite at step 1 of 1; lower the learning rate"):
        train(tiny_chain(), opened(folder, recipe), recipe, on=training.engine("cpu"), listener=listener)
    assert [state["step"] for state in states] == [0]


def test_a_plain_run_is_plain_pytorch(folder: Path) -> None:
    """Without stage cost and teacher it is SGD on the cross-entropy, in the plan's order, bit by bit."""
    chain, data = tiny_chain(), opened(folder)
    recipe = replace(RECIPE, gamma=0.0, teacher_weight=0.0, epochs=1, channels_last=False)
    trained = train(chain, data, recipe, on=training.engine("cpu"))

    network = copy.deepcopy(chain.network).requires_grad_(True).train()
    branches = [p for block in chain.blocks for p in block.branch.parameters()]
    branch_names = {name for name, p in chain.network.named_parameters() if any(p is b for b in branches)}
    groups = [
        {"params": [p for n, p in network.named_parameters() if (n in branch_names) is inside]}
        for inside in (True, False)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
    plan = Plan.of(recipe, len(data.images), 1)
    for step, keys in enumerate(plan.keys(0, 0, 0)):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        pairs = [data.images[key] for key in keys]
        x = normalise(torch.stack([image for image, _ in pairs]), chain.preprocessing)
        loss = F.cross_entropy(network(x), torch.tensor([label for _, label in pairs]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mine = trained.chain.network.state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_origin_is_left_as_it_is_and_the_network_learns(folder: Path) -> None:
    chain, data = tiny_chain(), opened(folder)
    before = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    trained = train(chain, data, replace(RECIPE, epochs=16, gamma=0.1, teacher_weight=0.0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.network.state_dict().items())
    assert not any(p.requires_grad for p in chain.network.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    first, best = trained.rows[0], trained.best
    assert first.final is not None
    assert best.final is not None
    assert (first.epoch, first.steps, first.objective) == (0, 0, None)
    assert best.final.accuracy is not None
    assert best.final.accuracy > 0.9
    assert best.exits[-1].accuracy is not None
    assert best.exits[-1].accuracy > 0.9
    assert best.last_stage_accuracy == pytest.approx(sum(e.accuracy or 0 for e in best.exits[2:]) / 2)
    assert not trained.chain.network.training


def test_a_run_without_exits_leaves_behind_what_they_had_of_their_own(folder: Path) -> None:
    data = opened(folder)
    staged = train(tiny_chain(), data, replace(RECIPE, epochs=1, gamma=0.1)).chain
    assert staged.exit_state
    plain = train(staged, data, replace(RECIPE, epochs=1, gamma=0.0))
    assert not plain.chain.exit_state
    assert plain.best.exits == ()
    assert plain.best.last_stage_accuracy is None


def test_the_best_epoch_is_kept_not_the_last(folder: Path) -> None:
    kept: list[tuple[ResidualChain, tuple[EpochRow, ...]]] = []
    recipe = replace(RECIPE, epochs=5, rate=0.4, schedule="constant", seed=3)
    listener = Listener(on_best=lambda chain, rows: kept.append((chain, rows)))
    trained = train(tiny_chain(), opened(folder), recipe, listener=listener)
    scores = [row.score for row in trained.rows[1:]]
    assert trained.best.score == min(score for score in scores if score is not None)
    assert same_tensors(trained.chain, kept[-1][0])
    assert [rows[-1].epoch for _, rows in kept] == [row.epoch for row in trained.rows[1:] if row.best]


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": "shared", "vanish": 1e-3, "ema": 0.9},
        {"heads": "separate", "optimizer": "adamw", "rate": 1e-3, "accumulate": 2},
        {"gamma": 0.0, "gamma_end": 0.2, "mixup": 0.4, "cutmix": 1.0, "clip": 1.0, "label_smoothing": 0.1},
    ],
)
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(
    changes: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SAVE_EVERY", 0.0)  # a state after every step
    chain, data, recipe = tiny_chain(), opened(folder), replace(RECIPE, **changes)
    states: list[dict[str, Any]] = []
    listener = Listener(on_state=lambda state: states.append(copy.deepcopy(state)))
    whole = train(chain, data, recipe, teacher=chain, listener=listener)
    assert [state["step"] for state in states] == [0, 1, 2, 3, 4, 5, 6]
    for state in states:
        again = train(chain, data, recipe, teacher=chain, state=state)
        assert same_tensors(again.chain, whole.chain)
        figures = [replace(row, seconds=0.0, images_per_second=None) for row in again.rows]
        assert figures == [replace(row, seconds=0.0, images_per_second=None) for row in whole.rows]


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 5, 4), (2, 3, 5, 4, 2)])
def test_synced_norms_of_one_process_are_plain_norms(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.ndim](3)
    with torch.no_grad():
        plain.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        plain.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    synced, found = copy.deepcopy(plain), dict[nn.Module, list[Tensor]]()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/met", rank=0, world_size=1)
    try:
        for norm, within in ((plain, nullcontext()), (synced, SyncedNorms())):
            inputs = x.clone().requires_grad_(True)
            with within:
                out = norm(inputs)
            (out * torch.arange(float(out.numel())).view(shape)).mean().backward()
            assert inputs.grad is not None
            found[norm] = [out, inputs.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]
    finally:
        dist.destroy_process_group()
    torch.testing.assert_close(found[synced], found[plain], rtol=1e-4, atol=1e-5)


def test_vanished_branches_are_counted_and_dropping_them_is_exact(folder: Path) -> None:
    recipe = replace(RECIPE, vanish=8.0, gamma=0.2, ema=0.5, epochs=3)
    trained = train(tiny_chain(), opened(folder), recipe)
    zero = trained.best.zero_branches
    assert zero
    chain = trained.chain
    assert all(not p.any() for k in zero for p in vanishing_group(chain.blocks[k]))
    with torch.inference_mode():
        x = chain.stem(make_images(chain, 3))
        for block in chain.blocks:
            assert block.index not in zero or torch.equal(block(x), block.skip(x))
            x = block(x)


def test_a_loss_that_is_not_finite_stops_the_run(folder: Path) -> None:
    states: list[int] = []
    listener = Listener(on_state=lambda state: states.append(state["step"]))
    with pytest.raises(TrainingError, match="not finite at step"):
        train(tiny_chain(), opened(folder), replace(RECIPE, rate=1e20), listener=listener)
    assert states == [0]
    once = replace(RECIPE, rate=1e20, epochs=1, batch_size=48)  # the loss was finite, the network is not
    with pytest.raises(
        TrainingError, match="the network's output is not finite at step 1 of 1; lower the learning rate"
    ):
        train(tiny_chain(), opened(folder), once)


def test_no_state_is_written_whose_weights_are_not_finite(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SAVE_EVERY", 0.0)
    states: list[int] = []
    listener = Listener(on_state=lambda state: states.append(state["step"]))

    def spoil(parameters: Iterable[Tensor], norm: float) -> None:
        for own in parameters:
            own.grad = torch.full_like(own, math.nan)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    with pytest.raises(TrainingError, match="the loss is not finite at step 2 of 12"):  # that of step 1 was
        train(tiny_chain(), opened(folder), replace(RECIPE, batch_size=8, clip=1.0), listener=listener)
    assert states == [0]


def test_no_state_is_written_whose_loss_was_not_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "SAVE_EVERY", 0.0)
    monkeypatch.setitem(training_loop.LOOK_EVERY, "cpu", 4)  # as seldom as a GPU, in proportion
    states: list[int] = []
    listener = Listener(on_state=lambda state: states.append(state["step"]))
    recipe = replace(RECIPE, batch_size=8)  # six steps an epoch
    train(tiny_chain(), opened(folder), recipe, listener=listener)
    assert states == [0, 4, 6, 8, 12]
    states.clear()
    with pytest.raises(TrainingError, match="the loss is not finite at step 4 of 12"):
        train(tiny_chain(), opened(folder), replace(recipe, rate=1e20), listener=listener)
    assert states == [0]


def test_the_last_epochs_see_plain_images(folder: Path) -> None:
    chain, data = tiny_chain(), opened(folder, augment="crop-flip")
    plain = replace(data, images=data.images.plain)
    recipe = replace(RECIPE, epochs=2)
    ends = [
        train(chain, images, replace(recipe, plain_epochs=count), on=training.engine("cpu")).chain.network
        for images, count in ((data, 0), (data, 1), (data, 2), (data, 3), (plain, 0))
    ]
    none, last, both, more, wanted = (network.state_dict()["conv1.weight"] for network in ends)
    assert torch.equal(both, wanted)
    assert torch.equal(more, wanted)
    assert not torch.equal(none, wanted)
    assert not torch.equal(last, wanted)
    assert not torch.equal(last, none)


def test_schedules() -> None:
    cosine = Plan.of(Recipe(steps=100, rate=1.0, warm_up=0.1, batch_size=10), 100, 1)
    assert cosine.rate(0) == pytest.approx(0.1)
    assert cosine.rate(50) == pytest.approx(0.5)
    assert max(range(100), key=cosine.rate) in (9, 10)
    assert cosine.rate(99) < 1e-3
    paper = Plan.of(RECIPES["paper"], 50_000, 1)
    steps = paper.steps_an_epoch
    rates = [paper.rate(epoch * steps) for epoch in (0, 81, 82, 122, 123, 164)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert (paper.epochs, paper.batch_size, paper.gamma(0), paper.gamma(10**6)) == (165, 128, 0.02, 0.02)
    rising = Plan.of(Recipe(steps=5, gamma=0.0, gamma_end=0.2, batch_size=10), 100, 1)
    assert [rising.gamma(step) for step in range(5)] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])
    healing = Plan.of(replace(RECIPES["heal"], steps=3), 1000, 1)
    assert [healing.feature_weight(step) for step in range(3)] == pytest.approx([300, 150, 0])
    longer = Plan.of(replace(RECIPES["heal"], epochs=4), 1000, 1)
    half = 2 * longer.steps_an_epoch
    assert [longer.augments(step) for step in range(longer.steps)] == [True] * half + [False] * half
    constant = Plan.of(Recipe(steps=3, gamma=0.0, feature_weight=5.0), 1000, 1)
    assert [constant.feature_weight(step) for step in range(3)] == [5.0] * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": -0.1},
        {"branch_decay": -1e-4},
        {"gamma": float("nan")},
        {"epochs": 0},
        {"heads": "none"},
        {"optimizer": "lion"},
        {"hold_out": 1.0},
        {"heads": "separate", "gamma": 0.0},
        {"teacher_weight": 1.5},
    ],
)
def test_a_recipe_that_means_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(RECIPE, **changes)


def test_a_network_whose_norms_are_hidden_is_refused() -> None:
    chain = make_chain(ARCHITECTURES["preact homogeneous"])

    class Hidden(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)

    hidden = replace(chain, head=nn.Sequential(Hidden(chain.head[0]), *list(chain.head)[1:]))
    from resprune.errors import ArchitectureError
    from resprune.training.student import own_exit_state

    with pytest.raises(ArchitectureError, match="Hidden that hides a batch norm"):
        own_exit_state(hidden, "shared")
