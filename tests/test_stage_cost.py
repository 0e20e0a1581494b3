"""The objective and its gradients against equations (2) and (3) written as loops; the proximal step."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from resprune import exits
from resprune.chain import ResidualChain
from resprune.families.layers import leaves
from resprune.records import Heads, PrunePlan
from resprune.stage_cost import (
    LOG_SCALE,
    branch_penalty,
    check_vanishing,
    shrink_branches,
    stage_cost,
    vanishing_group,
    zero_branches,
)
from resprune.surgery import remove_blocks
from resprune.training.student import Student

CPU = torch.device("cpu")


def test_objective_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, 5, generator=generator)
    targets = torch.randint(0, 5, (6,), generator=generator)
    expected = F.cross_entropy(logits[:, 3], targets)
    expected = expected + sum(0.02 * F.cross_entropy(logits[:, k], targets) for k in range(3))
    torch.testing.assert_close(stage_cost(logits, targets, 0.02).total, expected)
    plain = F.cross_entropy(logits[:, 3], targets)
    torch.testing.assert_close(stage_cost(logits, targets, 0.0).total, plain)
    # Class indices are probabilities that are all in one place.
    soft = F.one_hot(targets, 5).float()
    torch.testing.assert_close(stage_cost(logits, soft, 0.02).total, expected)


def test_smoothing_and_distillation_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, taught = torch.randn(6, 3, 5, generator=generator), torch.randn(6, 5, generator=generator)
    targets = torch.randint(0, 5, (6,), generator=generator)
    cost = stage_cost(
        logits, targets, 0.1, label_smoothing=0.2, teacher=taught, teacher_weight=0.7, temperature=3.0
    )
    smooth = 0.8 * F.one_hot(targets, 5) + 0.2 / 5
    losses = [-(smooth * logits[:, k].log_softmax(1)).sum(1).mean() for k in range(3)]
    softened = (taught / 3).softmax(1)
    divergence = (softened * (softened.log() - (logits[:, 2] / 3).log_softmax(1))).sum(1).mean()
    expected = 0.1 * (losses[0] + losses[1]) + 0.3 * losses[2] + 0.7 * 9 * divergence
    torch.testing.assert_close(cost.total, expected)
    torch.testing.assert_close(cost.losses, torch.stack(losses))
    assert cost.distillation is not None
    torch.testing.assert_close(cost.distillation, 9 * divergence)


def naive_logits(student: Student, images: Tensor) -> Tensor:
    """Return all exits (n, N + 1, classes) by equation (2): every state by itself through all that follows."""
    chain = student.chain
    names = chain.tensor_names()

    def own(layer: nn.Module, x: Tensor, k: int) -> Tensor:
        rows = {}
        for name, tensor in layer.state_dict(keep_vars=True).items():
            if names[id(tensor)] in chain.exit_state:
                rows[name] = chain.exit_state[names[id(tensor)]][k]
        return functional_call(layer, rows, x) if rows else layer(x)

    x, logits = chain.stem(images), []
    for k in range(chain.depth):
        state = x
        for block in chain.blocks[k:]:
            for step in block.steps:
                for layer in leaves(step):
                    state = own(layer, state, k)
        for layer in [leaf for step in chain.tail for leaf in leaves(step)] + leaves(chain.head):
            state = own(layer, state, k)
        logits.append(state)
        x = chain.blocks[k](x)
    return torch.stack([*logits, chain.resume(chain.depth, x)], dim=1)


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_losses_gradients_and_statistics_are_those_of_the_loop(chain: ResidualChain, heads: Heads) -> None:
    assert_like_the_loop(chain, heads)


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("name", ["torchvision basic", "cifar option B", "cifar preact", "preact standard"])
def test_so_are_those_of_a_network_with_bare_projections(name: str, heads: Heads) -> None:
    chain = make_chain(ARCHITECTURES[name])
    stages = [block.stage for block in chain.blocks]
    second = {k for k, stage in enumerate(stages) if stage in (1, max(stages))}
    kept = tuple(k for k in range(chain.depth) if k not in second)
    plan = PrunePlan("bare second and last stage", tuple(sorted(second)), kept)
    assert_like_the_loop(remove_blocks(chain, plan), heads)


@pytest.mark.parametrize("kind", ["avg", "max"])
@pytest.mark.parametrize("name", ["torchvision basic", "preact standard"])
def test_so_are_those_of_heads_that_pool_otherwise(name: str, kind: str) -> None:
    chain = make_chain(ARCHITECTURES[name])
    chain.network.set_submodule("avgpool", SelectAdaptivePool2d(pool_type=kind))
    assert_like_the_loop(chain, "shared")


def assert_like_the_loop(chain: ResidualChain, heads: Heads) -> None:
    """Compare one pass over all exits with the loop: one exit at a time, and as many as there are at once."""
    images, targets = make_images(chain, 6).double(), torch.arange(6) % chain.classes
    chain.network.double()
    slow = Student(chain, heads, CPU).train()
    students = [copy.deepcopy(slow) for _ in range(2)]
    looped = stage_cost(naive_logits(slow, images), targets, 0.3)
    looped.total.backward()
    theirs, statistics = dict(slow.named_parameters()), dict(slow.own.named_buffers())
    for fast, batch_bytes in zip(students, (1, 1 << 30), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exits, "BATCH_BYTES", batch_bytes)
            mine = stage_cost(fast(images)[0], targets, 0.3)
        torch.testing.assert_close(mine.losses, looped.losses)
        mine.total.backward()
        for name, parameter in fast.named_parameters():
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-6, atol=1e-9, msg=name)
        for name, buffer in fast.own.named_buffers():
            torch.testing.assert_close(buffer, statistics[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("name", ["torchvision basic", "preact standard"])
def test_bf16_costs_no_more_digits_than_in_the_loop(name: str, heads: Heads) -> None:
    chain = make_chain(ARCHITECTURES[name])
    images, targets = make_images(chain, 16), torch.arange(16) % chain.classes
    student = Student(chain, heads, CPU).train()

    def gradient(logits_of: Callable[[Student, Tensor], Tensor], half: bool) -> Tensor:
        learning = copy.deepcopy(student)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = logits_of(learning, images)
        stage_cost(logits.float(), targets, 0.3).total.backward()
        return torch.cat([p.grad.flatten() for p in learning.parameters() if p.grad is not None])

    exact = gradient(naive_logits, half=False)
    looped, mine = gradient(naive_logits, half=True), gradient(lambda s, x: s(x)[0], half=True)
    assert 0 < (mine - exact).norm() < 1.2 * (looped - exact).norm()


def test_shared_heads_add_no_parameters_and_separate_ones_a_row_for_every_exit() -> None:
    chain = make_chain(ARCHITECTURES["preact standard"])
    count = sum(p.numel() for p in chain.network.parameters())
    shared, separate = Student(chain, "shared", CPU), Student(chain, "separate", CPU)
    assert sum(p.numel() for p in shared.parameters()) == count
    head = sum(p.numel() for p in chain.head.parameters()) * chain.depth
    steps = sum(
        p.numel() * (block.index + 1) for block in chain.blocks for s in block.steps for p in s.parameters()
    )
    assert sum(p.numel() for p in separate.parameters()) == count + head + steps


def norms(chain: ResidualChain) -> list[float]:
    groups = [vanishing_group(block) for block in chain.blocks]
    return [float(torch.cat([p.flatten() for p in group]).double().norm()) for group in groups]


def test_the_penalty_is_half_lambda_times_the_squares_of_the_branches(chain: ResidualChain) -> None:
    squares = sum(float(p.double().square().sum()) for b in chain.blocks for p in b.branch.parameters())
    assert branch_penalty(chain, 1e-3) == pytest.approx(5e-4 * squares, rel=1e-5)


def test_the_step_solves_the_proximal_problem_to_first_order(chain: ResidualChain) -> None:
    before = norms(chain)
    sizes = [sum(p.numel() for p in vanishing_group(block)) for block in chain.blocks]
    shrink_branches(chain, 1e-3)
    assert zero_branches(chain) == ()
    for old, new, size in zip(before, norms(chain), sizes, strict=True):
        assert old - new == pytest.approx(1e-3 * size**0.5 / (LOG_SCALE + old), rel=5e-3)


def test_small_branches_become_exactly_zero_and_stay_so(chain: ResidualChain) -> None:
    with torch.no_grad():
        for parameter in vanishing_group(chain.blocks[1]):
            parameter.mul_(1e-4)
    for _ in range(2):
        shrink_branches(chain, 1e-4)
        assert zero_branches(chain) == (1,)
        assert norms(chain)[1] == 0.0


@torch.inference_mode()
def test_a_zero_group_switches_the_branch_off(chain: ResidualChain) -> None:
    check_vanishing(chain)
    for block in chain.blocks:
        for parameter in vanishing_group(block):
            parameter.zero_()
    x = chain.stem(make_images(chain, 2))
    for block in chain.blocks:
        after = block(x)
        assert torch.equal(after, block.skip(x))
        x = after
    assert zero_branches(chain) == tuple(range(chain.depth))
