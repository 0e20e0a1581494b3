"""The objective against its formula, and the proximal step against its definition."""

from __future__ import annotations

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from torch.nn import functional as F

from resprune.chain import ResidualChain
from resprune.stage_cost import LOG_SCALE, shrink_branches, stage_cost, vanishing_group


def test_objective_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, 5, generator=generator)
    targets = torch.randint(0, 5, (6,), generator=generator)
    expected = F.cross_entropy(logits[:, 3], targets)
    expected = expected + sum(0.02 * F.cross_entropy(logits[:, k], targets) for k in range(3))
    torch.testing.assert_close(stage_cost(logits, targets, 0.02), expected)
    torch.testing.assert_close(stage_cost(logits, targets, 0.0), F.cross_entropy(logits[:, 3], targets))


def norms(chain: ResidualChain) -> list[float]:
    groups = [vanishing_group(block) for block in chain.blocks]
    return [float(torch.cat([p.flatten() for p in group]).double().norm()) for group in groups]


def test_the_step_solves_the_proximal_problem_to_first_order(chain: ResidualChain) -> None:
    before = norms(chain)
    sizes = [sum(p.numel() for p in vanishing_group(block)) for block in chain.blocks]
    assert shrink_branches(chain, 1e-3) == 0
    for old, new, size in zip(before, norms(chain), sizes, strict=True):
        assert old - new == pytest.approx(1e-3 * size**0.5 / (LOG_SCALE + old), rel=5e-3)


def test_small_branches_become_exactly_zero_and_stay_so(chain: ResidualChain) -> None:
    with torch.no_grad():
        for parameter in vanishing_group(chain.blocks[1]):
            parameter.mul_(1e-4)
    assert shrink_branches(chain, 1e-4) == 1
    assert norms(chain)[1] == 0.0
    assert shrink_branches(chain, 1e-4) == 1


@torch.inference_mode()
def test_a_zero_group_switches_a_pre_activation_branch_off() -> None:
    chain = make_chain(ARCHITECTURES["preact homogeneous"])
    for block in chain.blocks:
        for parameter in vanishing_group(block):
            parameter.zero_()
    x = chain.stem(make_images(chain, 2))
    assert all(torch.equal(block(x), x) for block in chain.blocks)
