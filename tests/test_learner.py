"""One step of training: what learns, at which rate, from whom, on which images."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from training import RECIPE, tiny_chain

from resprune import training
from resprune.chain import ResidualChain
from resprune.data import normalise
from resprune.families import preact
from resprune.records import Recipe
from resprune.stage_cost import stage_cost
from resprune.training import Plan
from resprune.training.learner import Learner
from resprune.training.student import Student

CPU = torch.device("cpu")


def learner(chain: ResidualChain, recipe: Recipe, teacher: ResidualChain | None = None) -> Learner:
    return Learner(chain, teacher, recipe, Plan.of(recipe, 48, 1), training.engine("cpu"))


def parts(count: int, n: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (count, n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return [(batch, torch.arange(n) % 4) for batch in images]


def test_parts_of_a_batch_add_up() -> None:
    """Two halves that are alike have the batch statistics of the whole."""
    recipe = replace(RECIPE, gamma=0.1, teacher_weight=0.0)
    (images, labels), chain = parts(1)[0], tiny_chain()
    whole, halves = learner(chain, recipe), learner(chain, replace(recipe, accumulate=2))
    for one in (whole, halves):
        one.student.train()
    sums = whole.step(0, iter([(torch.cat([images, images]), torch.cat([labels, labels]))]))
    split = halves.step(0, iter([(images, labels), (images, labels)]))
    torch.testing.assert_close(sums, split)
    theirs = dict(halves.student.named_parameters())
    for name, parameter in whole.student.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=1e-4, atol=1e-6)


def test_separate_heads_learn_at_the_rate_divided_by_gamma() -> None:
    recipe = replace(
        RECIPE, gamma=0.05, heads="separate", momentum=0.0, weight_decay=0.01, teacher_weight=0.0, rate=0.1
    )
    one = learner(tiny_chain(), recipe)
    one.student.train()
    name, parameter = next((n, p) for n, p in one.student.own.named_parameters() if n == "fc__weight")
    before, (images, labels) = parameter.detach().clone(), parts(1)[0]
    twin = copy.deepcopy(one.student)
    x = normalise(images, one.student.chain.preprocessing).contiguous(memory_format=torch.channels_last)
    # Exit k's head sees the gradient of its own loss, as if it were trained alone at the base rate.
    stage_cost(twin(x)[0], labels, 1.0).total.backward()
    grad = dict(twin.own.named_parameters())[name].grad
    assert grad is not None
    one.step(0, iter([(images, labels)]))
    torch.testing.assert_close(parameter, before - 0.1 * (grad + 0.01 * before), rtol=1e-4, atol=1e-6)


def test_branches_and_all_else_decay_each_at_their_own_rate() -> None:
    groups = Student(tiny_chain(), "shared", CPU).groups(replace(RECIPE, branch_decay=0.5, weight_decay=0.25))
    chain = tiny_chain()
    inside = sum(p.numel() for block in chain.blocks for p in block.branch.parameters())
    sizes = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
    everything = sum(p.numel() for p in chain.network.parameters())
    assert sizes == {0.5: inside, 0.25: everything - inside}


def test_the_teacher_is_the_untouched_network() -> None:
    chain = tiny_chain()
    one = learner(chain, replace(RECIPE, teacher_weight=1.0, gamma=0.0, rate=0.5), teacher=chain)
    one.student.train()
    images, labels = parts(1)[0]
    with torch.inference_mode():
        x = normalise(images, chain.preprocessing)
        expected = chain(x)
    one.step(0, iter([(images, labels)]))
    assert one.teacher is not None
    with torch.inference_mode():
        torch.testing.assert_close(one.teacher(x)[0][:, 0], expected, rtol=1e-4, atol=1e-5)
    assert not one.teacher.training


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_a_compiled_step_is_the_eager_one(heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated ahead of time as always; only the code is torch's own, not a compiler's."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    recipe = replace(RECIPE, gamma=0.1, heads=heads, teacher_weight=0.0)
    smallest = preact.architecture("smallest", [1, 1], [4, 8], in_channels=3, classes=4)
    chain, (images, labels) = tiny_chain(architecture=smallest), parts(1)[0]
    x = normalise(images, chain.preprocessing).contiguous(memory_format=torch.channels_last)
    found: list[dict[str, Any]] = []
    for compiled in (False, True):
        one = learner(chain, replace(recipe, compile=compiled))
        assert (one.student._compiled_call_impl is not None) is compiled
        one.student.train()
        logits, _ = one.model(x)
        stage_cost(logits, labels, 0.1).total.backward()
        grads = {name: parameter.grad for name, parameter in one.student.named_parameters()}
        found.append({"logits": logits, "statistics": dict(one.student.named_buffers()), "gradients": grads})
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_images_of_plain_epochs_are_not_mixed() -> None:
    sums = {}
    for plain in (0, 1):
        for mixup in (0.0, 0.4):
            one = learner(tiny_chain(), replace(RECIPE, epochs=1, plain_epochs=plain, mixup=mixup))
            one.student.train()
            sums[plain, mixup] = one.step(0, iter(parts(1)))
    assert torch.equal(sums[1, 0.4], sums[1, 0.0])
    assert not torch.equal(sums[0, 0.4], sums[0, 0.0])


def test_the_average_follows_the_weights() -> None:
    one = learner(tiny_chain(), replace(RECIPE, ema=0.9, gamma=0.0, teacher_weight=0.0))
    one.student.train()
    start = one.average.network.state_dict()["fc.weight"].clone()
    one.step(0, iter(parts(1)))
    now, learned = one.average.network.state_dict()["fc.weight"], one.student.network.state_dict()["fc.weight"]
    assert not torch.equal(now, start)
    apart = (now - start).norm() / (learned - start).norm()
    assert 0.0 < float(apart) <= 1.0 + 1e-6


def test_bf16_stays_close_to_fp32() -> None:
    figures = {}
    for precision in ("fp32", "bf16"):
        one = learner(tiny_chain(), replace(RECIPE, precision=precision, gamma=0.1, teacher_weight=0.0))
        one.student.train()
        figures[precision] = one.step(0, iter(parts(1)))
        assert {p.dtype for p in one.student.parameters()} == {torch.float32}
    torch.testing.assert_close(figures["bf16"], figures["fp32"], rtol=0.05, atol=0.05)
    assert not torch.equal(figures["bf16"], figures["fp32"])
