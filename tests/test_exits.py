"""The batched exits against equation (2) of the paper, written as a loop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from torch import Tensor, nn

from resprune import exits
from resprune.chain import ResidualChain
from resprune.exits import SkipChainExits
from resprune.families.layers import leaves
from resprune.records import Heads
from resprune.training.student import own_exit_state


def loop(chain: ResidualChain, images: Tensor) -> Tensor:
    """Return all exits (n, N + 1, classes), every state sent by itself through all that follows."""
    logits = []
    for k in range(chain.depth + 1):
        x = chain.stem(images)
        for block in chain.blocks[:k]:
            x = block(x)
        for block in chain.blocks[k:]:
            part = block.part
            for step in block.lead:
                x = step(x)
            x = part.activation(part.skip(x).clone())
        for step in chain.tail:
            x = step(x)
        logits.append(chain.head(x))
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("batch_bytes", [1, 100_000, 1 << 30])
@torch.inference_mode()
def test_all_exits_equal_the_loop(
    chain: ResidualChain, images: Tensor, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "BATCH_BYTES", batch_bytes)
    torch.testing.assert_close(SkipChainExits(chain)(images), loop(chain, images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_channels_last_input_gives_the_same(chain: ResidualChain, images: Tensor) -> None:
    turned = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(SkipChainExits(chain)(turned), loop(chain, images), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_last_exit_is_the_network_itself(chain: ResidualChain, images: Tensor) -> None:
    assert torch.equal(SkipChainExits(chain)(images)[:, -1], chain.network(images))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardswish])  # passed alone, and by many
@pytest.mark.parametrize("name", ["preact homogeneous", "preact standard"])
def test_a_head_that_works_in_place_leaves_the_states_of_the_network(
    name: str, activation: type[nn.ReLU], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "BATCH_BYTES", 1)  # states do not wait for others, and are not copied for that
    chain = make_chain(ARCHITECTURES[name])
    images, end = make_images(chain, 3), leaves(chain.head)[-1]
    own, copied = (
        SkipChainExits(
            replace(
                chain,
                head=nn.Sequential(activation(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), end),
            )
        )
        for inplace in (True, False)
    )
    with torch.inference_mode():
        assert torch.equal(own(images), copied(images))
    images.requires_grad_()
    assert torch.equal(own(images), copied(images))


@torch.inference_mode()
def test_one_forward_pass_serves_all_exits(chain: ResidualChain, images: Tensor) -> None:
    calls: dict[nn.Module, int] = {}
    handles = [
        block.part.module.register_forward_hook(lambda m, i, o: calls.update({m: calls.get(m, 0) + 1}))
        for block in chain.blocks
    ]
    SkipChainExits(chain)(images)
    for handle in handles:
        handle.remove()
    assert list(calls.values()) == [1] * chain.depth


@torch.inference_mode()
def test_states_are_cut_down_before_they_are_stored() -> None:
    chain = make_chain(ARCHITECTURES["torchvision bottleneck"])
    climb = SkipChainExits(chain).start()
    x = chain.stem(make_images(chain, 2))
    climb.add(x)
    kept = [tensor for tensor in climb._waiting if tensor.untyped_storage().nbytes() >= x.nbytes]
    assert not kept


def with_own(chain: ResidualChain, heads: Heads = "shared") -> ResidualChain:
    """Give every exit random statistics of its own at every norm on its way, or random heads too."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, rows in own_exit_state(chain, heads).items():
        draw = torch.rand if name.endswith("running_var") else torch.randn
        state[name] = draw(rows.shape, generator=generator) * rows[0].numel() ** -0.5 + 0.5
    return replace(chain, exit_state=state)


def loop_with_own(chain: ResidualChain, images: Tensor) -> Tensor:
    """As `loop`, with exit k's rows put into the native tensors while exit k is computed."""
    native = chain.network.state_dict()
    logits = []
    for k in range(chain.depth):
        x = chain.stem(images)
        for block in chain.blocks[:k]:
            x = block(x)
        own = {name: rows[k] for name, rows in chain.exit_state.items() if k < len(rows)}
        saved = {name: native[name].clone() for name in own}
        for name, row in own.items():
            native[name].copy_(row)
        for block in chain.blocks[k:]:
            x = block.skip(x)
        logits.append(chain.head(x))
        for name, tensor in saved.items():
            native[name].copy_(tensor)
    return torch.stack([*logits, chain(images)], dim=1)


@pytest.mark.parametrize("heads", ["shared", "separate"])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 30])
@torch.inference_mode()
def test_own_statistics_and_heads_equal_the_loop(
    chain: ResidualChain, images: Tensor, heads: Heads, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "BATCH_BYTES", batch_bytes)
    chain = with_own(chain, heads)
    expected = loop_with_own(chain, images)
    torch.testing.assert_close(SkipChainExits(chain)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["preact homogeneous", "cifar option A"])
def test_training_mode_gives_every_exit_batch_statistics_of_its_own(name: str) -> None:
    chain = make_chain(ARCHITECTURES[name])
    images = make_images(chain, 6)
    chain.network.requires_grad_(True).train()
    logits = SkipChainExits(replace(chain, exit_state=own_exit_state(chain, "shared")))(images)
    # The same by a loop: in training mode each call of the head normalises with its own batch's statistics.
    x, expected = chain.stem(images), []
    for k in range(chain.depth):
        state = x
        for block in chain.blocks[k:]:
            state = block.skip(state)
        expected.append(chain.head(state))
        x = chain.blocks[k](x)
    expected.append(chain.head(x))
    torch.testing.assert_close(logits, torch.stack(expected, dim=1), rtol=1e-4, atol=1e-4)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in chain.network.parameters())


def test_training_mode_updates_the_statistics_of_the_exits_alone_and_in_place() -> None:
    chain = make_chain(ARCHITECTURES["preact homogeneous"])
    chain.network.train()
    chain = replace(chain, exit_state=own_exit_state(chain, "shared"))
    before = chain.exit_state["norm.running_mean"].clone()
    SkipChainExits(chain)(make_images(chain, 6))
    after = chain.exit_state["norm.running_mean"]
    assert after.shape == (chain.depth, 8)
    assert bool((after != before).any(dim=1).all())
