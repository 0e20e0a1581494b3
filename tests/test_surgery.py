"""Pruned networks against exits, zeroed branches and skipping on the fly; the input is never changed."""

from __future__ import annotations

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from test_exits import loop, loop_with_own, with_own
from torch import Tensor

from resprune.chain import ResidualChain
from resprune.counterparts import Counterparts
from resprune.errors import UsageError, VerificationError
from resprune.exits import SkipChainExits
from resprune.records import Heads, PrunePlan
from resprune.selection import select
from resprune.surgery import remove_blocks, skip_blocks
from resprune.verify import verify


def removing(chain: ResidualChain, *removed: int) -> PrunePlan:
    return PrunePlan("test", removed, tuple(k for k in range(chain.depth) if k not in removed))


@torch.inference_mode()
def test_every_subresnet_equals_its_exit(chain: ResidualChain, images: Tensor) -> None:
    logits = loop(chain, images)
    for depth in range(chain.depth + 1):
        sub = remove_blocks(chain, select(depth=depth, blocks=chain.depth))
        torch.testing.assert_close(sub.network(images), logits[:, depth], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sub(images), logits[:, depth], rtol=1e-4, atol=1e-4)
        assert sub.depth == sub.architecture.blocks == depth


@torch.inference_mode()
def test_any_set_of_blocks_can_go(chain: ResidualChain, images: Tensor) -> None:
    for removed in [(0,), (1, 2), (0, chain.depth - 1), tuple(range(0, chain.depth, 2))]:
        sub = remove_blocks(chain, removing(chain, *removed))
        expected = skip_blocks(chain, images, removed)
        torch.testing.assert_close(sub.network(images), expected, rtol=1e-4, atol=1e-4)
        # What is left is a chain again: all its exits follow equation (2).
        torch.testing.assert_close(SkipChainExits(sub)(images), loop(sub, images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_zeroed_branches_give_the_pruned_network(chain: ResidualChain, images: Tensor) -> None:
    removed = (1, chain.depth - 1)
    sub = remove_blocks(chain, removing(chain, *removed))
    for k in removed:
        shared = set(chain.blocks[k].part.skip.modules())  # a norm before both paths stays
        for layer in chain.blocks[k].branch:
            if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d) and layer not in shared:
                layer.weight.zero_()
                if layer.bias is not None:
                    layer.bias.zero_()
    torch.testing.assert_close(sub.network(images), chain.network(images), rtol=1e-5, atol=1e-5)
    alike = Counterparts.of(sub, chain, removing(chain, *removed))
    states, theirs = sub.with_states(images, alike.own)[1], chain.with_states(images, alike.taught)[1]
    assert len(states) == len(sub.parts)
    for own, other in zip(states, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_empty_plan_is_bit_equal(chain: ResidualChain, images: Tensor) -> None:
    same = remove_blocks(chain, removing(chain))
    assert torch.equal(same.network(images), chain.network(images))
    assert same.architecture == chain.architecture


@torch.inference_mode()
def test_pruning_twice_equals_pruning_once(chain: ResidualChain, images: Tensor) -> None:
    once = remove_blocks(chain, removing(chain, 0, 2, 3))
    first = remove_blocks(chain, removing(chain, 2))
    twice = remove_blocks(first, removing(first, 0, 2))
    assert torch.equal(once.network(images), twice.network(images))
    assert once.architecture == twice.architecture


def test_every_module_is_in_the_mode_of_the_network(chain: ResidualChain) -> None:
    assert not any(module.training for module in remove_blocks(chain, removing(chain, 1, 2)).network.modules())


def test_nothing_is_shared_and_nothing_changed(chain: ResidualChain, images: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    sub = remove_blocks(chain, removing(chain, 1))
    with torch.no_grad():
        for tensor in sub.network.state_dict().values():
            tensor.zero_()
    after = chain.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("name", ["preact homogeneous", "torchvision basic", "cifar option A"])
@torch.inference_mode()
def test_the_head_takes_what_its_exit_has_of_its_own(name: str, heads: Heads) -> None:
    chain = with_own(make_chain(ARCHITECTURES[name]), heads)
    images = make_images(chain, 4)
    expected = loop_with_own(chain, images)
    for depth in range(chain.depth + 1):
        sub = remove_blocks(chain, select(depth=depth, blocks=chain.depth))
        torch.testing.assert_close(sub.network(images), expected[:, depth], rtol=1e-4, atol=1e-4)
        # The exits before the cut keep their statistics too.
        ours = SkipChainExits(sub)(images)
        torch.testing.assert_close(ours, expected[:, : depth + 1], rtol=1e-4, atol=1e-4)


def test_parameters_and_macs_shrink(chain: ResidualChain) -> None:
    sub = remove_blocks(chain, select(depth=1, blocks=chain.depth))
    assert sub.summary.parameters < chain.summary.parameters
    assert sub.summary.macs < chain.summary.macs
    assert sub.summary.parameters == sum(p.numel() for p in sub.network.parameters())


def test_a_plan_for_another_network_is_refused(chain: ResidualChain) -> None:
    with pytest.raises(UsageError, match="the plan is for"):
        remove_blocks(chain, PrunePlan("test", (chain.depth,), tuple(range(chain.depth))))


def test_verification_passes_and_reports_rounding_only(chain: ResidualChain, images: Tensor) -> None:
    for plan in (select(depth=2, blocks=chain.depth), removing(chain, 0)):
        _, _, verified = verify(chain, remove_blocks(chain, plan), plan, [(images, None)])
        assert verified.max_abs_difference <= verified.tolerance


def test_verification_fails_where_the_result_is_another(chain: ResidualChain, images: Tensor) -> None:
    plan = select(depth=2, blocks=chain.depth)
    wrong = remove_blocks(chain, select(depth=1, blocks=chain.depth))
    with pytest.raises(VerificationError, match="differ from exit 2"):
        verify(chain, wrong, plan, [(images, None)])
