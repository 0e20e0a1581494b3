"""Re-estimated batch-norm statistics against numpy in double precision, and when they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, divergence, make_chain, make_images
from test_exits import with_own
from test_surgery import removing
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.errors import DataError
from resprune.norms import Norm, _Pair, match, norms_behind, re_estimate
from resprune.surgery import remove_blocks
from resprune.trajectory import Batch

SIZES = (5, 3, 4)
NAME = "cifar option A"


def batches(chain: ResidualChain, sizes: tuple[int, ...] = SIZES) -> list[Batch]:
    return [(images, None) for images in make_images(chain, sum(sizes)).split(sizes)]


def state(chain: ResidualChain) -> dict[str, Tensor]:
    tensors = {**chain.network.state_dict(), **{f"exits {k}": t for k, t in chain.exit_state.items()}}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def modes(chain: ResidualChain) -> list[tuple[bool, object]]:
    return [(layer.training, getattr(layer, "momentum", None)) for layer in chain.network.modules()]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def numpy_statistics(chain: ResidualChain, data: list[Batch]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and unbiased variance of every norm's input, in each batch, then averaged by numbers of images.

    All norms are in training mode: what a norm sees was normalised with its own batch's statistics.
    """
    seen: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    norms = {name: m for name, m in chain.network.named_modules() if isinstance(m, nn.BatchNorm2d)}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0]
        channels = x.double().numpy().swapaxes(0, 1).reshape(x.shape[1], -1)
        seen.setdefault(name, []).append((len(x), channels.mean(1), channels.var(1, ddof=1)))

    for name, norm in norms.items():
        norm.register_forward_pre_hook(partial(look, name))
        norm.training = True
    with torch.no_grad():
        for images, _ in data:
            chain(images)
    total = sum(len(images) for images, _ in data)

    def mean(rows: list[tuple[int, np.ndarray, np.ndarray]], column: int) -> np.ndarray:
        return np.asarray(sum(row[0] * np.asarray(row[column]) for row in rows) / total)

    return {name: (mean(rows, 1), mean(rows, 2)) for name, rows in seen.items()}


def test_statistics_are_those_of_numpy_and_all_else_stays(chain: ResidualChain) -> None:
    chain.network.double()
    data: list[Batch] = [(images.double(), None) for images, _ in batches(chain)]
    before, mode = state(chain), modes(chain)
    result = re_estimate(chain, data)
    assert equal(state(chain), before)
    assert modes(chain) == modes(result) == mode
    assert result.architecture == chain.architecture
    after = result.network.state_dict()
    for name, (mean, var) in numpy_statistics(remove_blocks(chain, removing(chain)), data).items():
        np.testing.assert_allclose(after[f"{name}.running_mean"], mean, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(after[f"{name}.running_var"], var, rtol=1e-7, atol=1e-9)
        assert not torch.equal(after[f"{name}.running_var"], before[f"{name}.running_var"])
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert all(torch.equal(after[name], before[name]) for name in after if not name.endswith(statistics))
    with torch.no_grad():
        for tensor in after.values():
            tensor.zero_()
    assert equal(state(chain), before)  # nothing is shared


def test_norms_before_the_first_removed_block_stay_bit_by_bit(chain: ResidualChain) -> None:
    pruned = remove_blocks(chain, removing(chain, 2))
    result = re_estimate(pruned, batches(chain), first=2)
    kept = {id(norm) for norm in norms_behind(result, 2)}
    before, after = pruned.network.state_dict(), dict(result.network.named_modules())
    for name, layer in after.items():
        if isinstance(layer, nn.BatchNorm2d):
            same = torch.equal(before[f"{name}.running_mean"], layer.running_mean)  # pyright: ignore
            assert same == (id(layer) not in kept)
    with torch.inference_mode():
        x = make_images(chain, 2)
        ours, theirs = result.stem(x), pruned.stem(x)
        for one, other in zip(result.blocks[:2], pruned.blocks[:2], strict=True):
            ours, theirs = one(ours), other(theirs)
        assert torch.equal(ours, theirs)


def test_estimated_anew_on_its_own_images_a_network_stays_near_itself() -> None:
    """All norms, those before the first removed block too, find again what they were estimated as."""
    chain = re_estimate(make_chain(ARCHITECTURES[NAME]), batches(make_chain(ARCHITECTURES[NAME]), (32,) * 4))
    fresh = [(images, None) for images in make_images(chain, 128, seed=9).split(32)]
    again = re_estimate(remove_blocks(chain, removing(chain, 4)), fresh)
    for ours, theirs in zip(again.blocks[:4], chain.blocks[:4], strict=True):
        for name, one in ours.part.module.state_dict().items():
            if name.endswith("running_var"):
                torch.testing.assert_close(one, theirs.part.module.state_dict()[name], rtol=0.25, atol=0.05)


def test_one_batch_of_all_images_gives_the_same_first_mean_and_hardly_more_variance() -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    parts, whole = (re_estimate(chain, batches(chain, sizes)) for sizes in ((32,) * 4, (128,)))
    one, other = norms_behind(parts, None)[0], norms_behind(whole, None)[0]
    torch.testing.assert_close(one.running_mean, other.running_mean)
    torch.testing.assert_close(one.running_var, other.running_var, rtol=1e-2, atol=0)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 1, 1), (4, 1), (1, 4), (2, 1, 1, 1, 3), (1, 1)])
def test_single_images_are_joined_to_others(sizes: tuple[int, ...]) -> None:
    chain = make_chain(ARCHITECTURES["torchvision basic"])  # its last maps have a single pixel
    told: list[int] = []
    result = re_estimate(chain, batches(chain, sizes), told.append)
    assert sum(told) == sum(sizes)
    assert min(told) >= 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state(result).values())


@pytest.mark.parametrize("sizes", [(), (1,)])
def test_too_few_images_are_refused(sizes: tuple[int, ...]) -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    given = [(make_images(chain, size), None) for size in sizes]
    with pytest.raises(DataError, match="image"):
        re_estimate(chain, given)


def test_an_exception_changes_nothing() -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    before, mode = state(chain), modes(chain)

    def broken() -> Iterator[Batch]:
        yield from batches(chain)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        re_estimate(chain, broken())
    assert equal(state(chain), before)
    assert modes(chain) == mode


def test_a_network_without_batch_norms_is_returned_as_it_is() -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    for module in list(chain.network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(4, layer.num_features))
    assert re_estimate(chain, []) is chain


def moments_of_norms(chain: ResidualChain, norms: list[Norm], images: Tensor) -> list[np.ndarray]:
    """Mean and variance of every channel that each norm gives, by numpy."""
    given: dict[int, np.ndarray] = {}

    def look(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0].double()
        own = norm.running_mean, norm.running_var, norm.weight, norm.bias
        plain = nn.functional.batch_norm(x, *(each.double() for each in own), eps=norm.eps)  # pyright: ignore
        channels = plain.numpy().swapaxes(0, 1).reshape(x.shape[1], -1)
        given[id(norm)] = np.stack([channels.mean(1), channels.var(1)])

    hooks = [norm.register_forward_hook(look) for norm in norms]
    with torch.no_grad():
        chain(images)
    for hook in hooks:
        hook.remove()
    return [given[id(norm)] for norm in norms]


def counterpart(chain: ResidualChain, norm: Norm) -> Norm:
    """The original's norm that has the same weights, where all have different ones."""
    (found,) = (own for own in norms_behind(chain, None) if torch.equal(own.weight, norm.weight))
    return found


def test_matched_norms_give_what_the_originals_give(chain: ResidualChain) -> None:
    generator = torch.Generator().manual_seed(2)
    for norm in norms_behind(chain, None):
        with torch.no_grad():
            norm.weight.add_(0.05 * torch.rand(norm.weight.shape, generator=generator))
    plan = removing(chain, 2)
    pruned, images = remove_blocks(chain, plan), make_images(chain, 12)
    theirs = [counterpart(chain, norm) for norm in norms_behind(pruned, 2)]
    for norm in norms_behind(pruned, 2):  # as compensation and training leave them
        with torch.no_grad():
            norm.weight.mul_(0.5 + torch.rand(norm.weight.shape, generator=generator))
            norm.weight[::3] *= -1
            norm.bias.add_(torch.randn(norm.bias.shape, generator=generator))
    before, original, mode = state(pruned), state(chain), modes(chain)
    result = match(chain, pruned, plan, [(images, None)])
    assert equal(state(pruned), before)
    assert equal(state(chain), original)
    assert modes(chain) == mode
    ours = moments_of_norms(result, norms_behind(result, 2), images)
    for one, other in zip(ours, moments_of_norms(chain, theirs, images), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-3)
    after = result.network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var")) for name in changed)
    hooks = [len(module._forward_pre_hooks) for own in (chain, result) for module in own.network.modules()]
    assert not sum(hooks)


@pytest.mark.parametrize("deviation", [0.0, 1e-6, 1e-4, 1e-3, 0.1])
def test_a_channel_that_hardly_differs_gets_the_original_s_mean(deviation: float) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    plan = removing(chain, 2)
    result = remove_blocks(chain, plan)
    norm = norms_behind(result, 2)[0]
    theirs, ours = counterpart(chain, norm), _Pair(norm, counterpart(chain, norm))
    x = torch.randn(64, norm.num_features, 4, 4, generator=torch.Generator().manual_seed(0))
    ours.look(theirs, (x + 0.5,))
    ours.adapt(norm, (0.3 + deviation * x,))
    with torch.inference_mode():
        given, wanted = (
            own((x).mul(scale).add(mean)).mean((0, 2, 3))
            for own, scale, mean in ((norm, deviation, 0.3), (theirs, 1.0, 0.5))
        )
    torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-3)


def test_matched_to_itself_a_network_stays_as_it_is_on_any_images(chain: ResidualChain) -> None:
    """Estimated anew it would take on the statistics of these images, which are not those of its training."""
    block = next(block for block in chain.blocks if block.part.step_is_trivial)
    with torch.no_grad():  # its branch adds nothing: without it the network is the same
        for layer in block.branch.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.weight.zero_()
                if layer.bias is not None:
                    layer.bias.zero_()
    plan = removing(chain, block.index)
    pruned = remove_blocks(chain, plan)
    data = batches(chain, (6, 3))
    same, anew = match(chain, pruned, plan, data), re_estimate(pruned, data, first=block.index)
    others = [(make_images(chain, 8, seed=7), None)]
    assert divergence(chain, same, others) < 1e-6 < divergence(chain, anew, others)


def numbers(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None
    return tensor.double().numpy()


def test_batches_are_weighed_by_their_images() -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    plan = removing(chain, 2)
    pruned, data = remove_blocks(chain, plan), batches(chain, (5, 3, 4))
    norm = norms_behind(match(chain, pruned, plan, data), 2)[0]  # the first sees what no norm has changed
    original = counterpart(chain, norm)
    rows = []
    for images, _ in data:
        with torch.no_grad():
            x = chain.stem(images)
            without = chain.blocks[1](chain.blocks[0](x))
            seen = [chain.blocks[3].branch[0](state) for state in (chain.blocks[2](without), without)]
        channels = [numbers(state).swapaxes(0, 1).reshape(norm.num_features, -1) for state in seen]
        rows.append([[own.mean(1), own.var(1, ddof=1)] for own in channels])
    (a, d2), (a_own, d2_own) = np.average(rows, axis=0, weights=[len(images) for images, _ in data])
    m, s2 = numbers(original.running_mean), numbers(original.running_var) + original.eps
    s2_own = s2 * d2_own / d2
    np.testing.assert_allclose(numbers(norm.running_var), s2_own - norm.eps, rtol=1e-4)
    wanted = a_own - (a - m) * np.sqrt(s2_own / s2)
    np.testing.assert_allclose(numbers(norm.running_mean), wanted, rtol=1e-4, atol=1e-5)


def test_channels_without_variance_keep_theirs() -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    first = chain.blocks[3].branch[0]
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        first.weight[:2].zero_()
    plan = removing(chain, 2)
    result = match(chain, remove_blocks(chain, plan), plan, batches(chain))
    norm = norms_behind(result, 2)[0]
    kept = numbers(norm.running_var) == numbers(counterpart(chain, norm).running_var)
    assert kept.nonzero()[0].tolist() == [0, 1]
    assert bool(torch.isfinite(result(make_images(chain, 2))).all())


@pytest.mark.parametrize("sizes", [(), (1,)])
def test_too_few_images_to_match_on_are_refused(sizes: tuple[int, ...]) -> None:
    chain = make_chain(ARCHITECTURES[NAME])
    plan = removing(chain, 2)
    with pytest.raises(DataError, match="image"):
        match(chain, remove_blocks(chain, plan), plan, [(make_images(chain, size), None) for size in sizes])


@pytest.mark.parametrize("heads", ["shared", "separate"])
def test_exits_keep_what_is_their_own_only_where_their_states_stay(heads: str) -> None:
    chain = with_own(make_chain(ARCHITECTURES["preact standard"]), heads)  # pyright: ignore
    pruned = remove_blocks(chain, removing(chain, *range(4, chain.depth)))
    assert pruned.exit_state
    assert not re_estimate(pruned, batches(chain)).exit_state
    kept = re_estimate(pruned, batches(chain), first=4).exit_state
    assert equal(dict(kept), dict(pruned.exit_state))
    assert all(kept[name] is not pruned.exit_state[name] for name in kept)
