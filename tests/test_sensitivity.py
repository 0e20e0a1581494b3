"""The order of surgical removals against plain loops: gates, estimates, cached prefixes, the greedy oracle."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images, switch_off
from torch import Tensor
from torch.nn import functional as F

from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError, DataError, UsageError
from resprune.records import Architecture, Method, PrunePlan, Removal
from resprune.savings import savings
from resprune.search import FEWEST, SHARE, Search, Trial, gated
from resprune.sensitivity import divergence_without, order_removals
from resprune.surgery import remove_blocks, skip_blocks

Rank = Literal["trials", "gates"]


NARROW = {**ARCHITECTURES["cifar option A"].options, "stem": 4, "widths": [4, 8, 16]}
DEEP = Architecture("cifar-resnet", "resnet56", ("b" * 9,) * 3, NARROW)


@pytest.fixture
def small() -> ResidualChain:
    return make_chain(ARCHITECTURES["cifar option B"])


@torch.inference_mode()
def divergence(chain: ResidualChain, images: Tensor, removed: tuple[int, ...]) -> float:
    p, q = chain(images).double().softmax(1), skip_blocks(chain, images, removed).double().softmax(1)
    return float((p * (p.log() - q.log())).sum(1).mean())


def greedy(chain: ResidualChain, images: Tensor, count: int, price: list[float] | None = None) -> list[int]:
    removed: list[int] = []
    for _ in range(count):
        now = divergence(chain, images, tuple(removed)) if removed else 0.0
        left = [k for k in range(chain.depth) if k not in removed]
        added = {k: divergence(chain, images, (*removed, k)) - now for k in left}
        if price is not None:
            added = {k: a / price[k] if a > 0 else a * price[k] for k, a in added.items()}
        removed.append(min(left, key=lambda k: added[k]))
    return removed


def plan(chain: ResidualChain, removed: tuple[int, ...]) -> PrunePlan:
    kept = tuple(k for k in range(chain.depth) if k not in removed)
    return PrunePlan("test", tuple(sorted(removed)), kept)


@torch.inference_mode()
def test_the_gate_leads_from_the_skip_step_to_the_block(chain: ResidualChain, images: Tensor) -> None:
    x = chain.stem(images)
    for block in chain.blocks:
        scale = float(block(x).abs().max())
        torch.testing.assert_close(gated(block, x, 1.0), block(x), rtol=0, atol=1e-4 * scale)
        torch.testing.assert_close(gated(block, x, 0.0), block.skip(x), rtol=0, atol=1e-4 * scale)
        x = block(x)


def test_divergences_are_those_of_pruned_networks(chain: ResidualChain) -> None:
    images = make_images(chain, 3)
    order = order_removals(chain, images.split(2), count=2, effort=1.5)
    for steps in (1, 2):
        removed = tuple(r.index for r in order[:steps])
        pruned = remove_blocks(chain, plan(chain, removed))
        with torch.inference_mode():
            p, q = chain(images).double().softmax(1), pruned.network(images).double().softmax(1)
        expected = float((p * (p.log() - q.log())).sum(1).mean())
        assert order[steps - 1].divergence == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_savings_are_the_difference_of_the_networks(chain: ResidualChain) -> None:
    for k in (0, chain.depth - 1):
        pruned = remove_blocks(chain, plan(chain, (k,)))
        assert savings(chain)[k] == chain.summary.macs - pruned.summary.macs


@pytest.mark.parametrize("rank", ["trials", "gates"])
def test_with_all_blocks_tried_it_is_greedy_elimination(small: ResidualChain, rank: Rank) -> None:
    images = make_images(small, 6)
    for effort in (math.inf, 99.0):
        order = order_removals(small, [images], effort=effort, rank=rank)
        assert [r.index for r in order] == greedy(small, images, small.depth)
    price = [1.0, 7.0, 2.0, 5.0, 3.0, 1.0, 4.0]
    order = order_removals(small, [images], count=4, price=price, effort=math.inf)
    assert [r.index for r in order] == greedy(small, images, 4, price)
    assert [r.price for r in order] == [price[r.index] for r in order]


@pytest.mark.parametrize("method", ["stagewise", "tail"])
def test_gates_rank_the_blocks_that_may_go(small: ResidualChain, method: Method) -> None:
    images = make_images(small, 6)
    order = order_removals(small, [images], method=method, rank="gates", effort=0.1)
    assert sorted(r.index for r in order) == list(range(small.depth))
    if method == "tail":
        assert [r.index for r in order] == list(reversed(range(small.depth)))


def test_slope_and_curvature_are_those_of_finite_differences(small: ResidualChain) -> None:
    small.network.double()
    images = make_images(small, 300).double()[:, :, ::4, ::4]
    search = Search(small, [images], 0, lambda passes: None)
    with torch.inference_mode():
        original = small(images)

        def at(gate: float, k: int, removed: tuple[int, ...]) -> float:
            x = small.stem(images)
            for block in small.blocks:
                closed = 0.0 if block.index in removed else gate if block.index == k else 1.0
                x = gated(block, x, closed)
            q = small.resume(small.depth, x).log_softmax(1)
            return float(F.kl_div(q, original.log_softmax(1), log_target=True, reduction="batchmean"))

        h = 1e-3
        for removed in ((), (3,)):
            estimate = search.estimate(removed, [k for k in range(small.depth) if k not in removed])
            search.estimates = 0  # the next one is on all images too
            for k, value in estimate.items():
                low, middle, high = at(1 - h, k, removed), at(1, k, removed), at(1 + h, k, removed)
                slope, curve = (high - low) / (2 * h), (high - 2 * middle + low) / h**2
                if not removed:  # there Gauss-Newton is the whole curvature
                    assert slope == pytest.approx(0.0, abs=1e-4 * curve)
                    assert value == pytest.approx(0.5 * curve, rel=0.3)
                else:  # its part of the curvature is never negative
                    assert value > -slope


@pytest.mark.parametrize("rank", ["trials", "gates"])
def test_zero_branches_go_first_and_free(small: ResidualChain, rank: Rank) -> None:
    switch_off(small.blocks[1])
    switch_off(small.blocks[5])
    passes: list[float] = []
    order = order_removals(small, [make_images(small, 4)], count=2, rank=rank, on_pass=passes.append)
    assert {r.index for r in order} == {1, 5}
    assert [r.divergence for r in order] == [0.0, 0.0]
    assert passes == [1.0]
    longer = order_removals(small, [make_images(small, 4)], count=4, effort=1.5, rank=rank)
    assert longer[:2] == order
    assert longer[2].divergence > 0


@pytest.mark.parametrize("rank", ["trials", "gates"])
def test_two_runs_are_equal_and_batches_do_not_matter(small: ResidualChain, rank: Rank) -> None:
    images = make_images(small, 8)
    runs = [order_removals(small, images.split(size), effort=1.5, rank=rank) for size in (8, 8, 3)]
    assert runs[0] == runs[1]
    if rank == "trials":
        assert [r.index for r in runs[2]] == [r.index for r in runs[0]]
        assert [r.divergence for r in runs[2]] == pytest.approx([r.divergence for r in runs[0]], rel=1e-4)


@pytest.mark.parametrize("fail", [False, True])
def test_the_chain_is_left_as_it_was(small: ResidualChain, fail: bool) -> None:
    small.network.requires_grad_(True)
    images = make_images(small, 4)
    before = {name: tensor.clone() for name, tensor in small.network.state_dict().items()}

    def on_pass(passes: float) -> None:
        if fail and passes > 2:
            raise KeyboardInterrupt

    def run() -> Any:
        return order_removals(small, [images], count=3, effort=1.5, rank="gates", on_pass=on_pass)

    if fail:
        with pytest.raises(KeyboardInterrupt):
            run()
    else:
        with torch.inference_mode():
            run()
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in small.network.parameters())
    assert not any(layer.training or layer._forward_hooks for layer in small.network.modules())
    assert torch.is_grad_enabled()


def test_it_stops_when_told(small: ResidualChain) -> None:
    images = [make_images(small, 4)]
    seen: list[tuple[Removal, ...]] = []

    def until(removals: tuple[Removal, ...]) -> bool:
        seen.append(removals)
        return sum(r.price for r in removals) >= 0.3 * small.summary.macs

    order = order_removals(small, images, until=until)
    assert seen[0] == ()
    assert seen[-1] == order
    assert order == order_removals(small, images)[: len(order)]
    assert order_removals(small, images, count=0) == ()


@pytest.mark.parametrize(
    ("rank", "effort", "compensated"),
    [("trials", None, False), ("trials", None, True), ("gates", 2.5, False)],
)
def test_passes_are_within_the_budget(rank: Rank, effort: float | None, compensated: bool) -> None:
    chain = make_chain(DEEP)
    for seed in range(1 if compensated else 2):
        passes: list[float] = []
        images = make_images(chain, 512, seed)[:, :, ::4, ::4]
        own = {"effort": effort, "rank": rank, "compensated": compensated, "seed": seed}
        order_removals(chain, [images], count=9, on_pass=passes.append, **own)
        assert 10 < sum(passes) <= 40


def test_a_rough_figure_is_that_of_every_fourth_image(small: ResidualChain) -> None:
    images = make_images(small, SHARE * FEWEST)[:, :, ::2, ::2]
    passes: list[float] = []
    search = Search(small, images.split(7), 0, passes.append)
    assert search.rough_every == SHARE
    rough, whole = search.try_each((3,), [0, 5], search.rough_every), search.try_each((3,), [0, 5])
    for k in (0, 5):
        assert rough[k].divergence == pytest.approx(
            divergence(small, images[SHARE - 1 :: SHARE], (3, k)), rel=1e-4
        )
        assert whole[k].divergence == pytest.approx(divergence(small, images, (3, k)), rel=1e-4)
    assert passes[1] == pytest.approx(passes[2] / SHARE)
    assert Search(small, [images[: 3 * FEWEST - 1]], 0, passes.append).rough_every == 2
    assert Search(small, [images[:1]], 0, passes.append).rough_every == 1
    assert [search.one_in(most, 10) for most in (1, 3, 8, 100)] == [1, 2, 8, 8]


def test_what_looked_best_on_some_images_is_tried_on_all(
    small: ResidualChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[tuple[int, int]] = []
    plain = Search.try_each

    def listening(self: Search, removed: Any, candidates: Any, every: int = 1) -> dict[int, Trial]:
        tries.append((len(candidates), every))
        return plain(self, removed, candidates, every)

    monkeypatch.setattr(Search, "try_each", listening)
    images = make_images(small, SHARE * FEWEST)[:, :, ::2, ::2]
    order = order_removals(small, [images], count=3, effort=1.5)
    assert tries[0] == (small.depth, SHARE)
    assert len(tries) == 4
    assert all(1 <= count < small.depth and every == 1 for count, every in tries[1:])
    for turn, removal in enumerate(order, start=1):
        gone = tuple(own.index for own in order[:turn])
        assert removal.divergence == pytest.approx(divergence(small, images, gone), rel=1e-4)


def test_what_a_step_leaves_over_is_spent_by_later_ones(small: ResidualChain) -> None:
    passes: list[float] = []
    images = make_images(small, SHARE * FEWEST)[:, :, ::2, ::2]
    effort = 1.7
    order_removals(small, [images], count=5, effort=effort, on_pass=passes.append)
    steps = passes[2:]  # behind the original's outputs and the first look
    assert len(steps) == 5
    assert max(steps) > effort
    assert all(sum(steps[:turn]) <= turn * effort for turn in range(1, 6))


def test_greedy_costs_what_its_suffixes_cost(small: ResidualChain) -> None:
    passes: list[float] = []
    order_removals(small, [make_images(small, 2)], count=1, effort=math.inf, on_pass=passes.append)
    total, whole, saved = small.summary.macs, [macs for macs, _ in small.costs], savings(small)
    suffixes = sum(whole[k] - saved[k] + sum(whole[k + 1 :]) for k in range(small.depth))
    way = total - whole[-1]
    assert sum(passes) == pytest.approx(1 + (way + suffixes) / total)


def test_what_cannot_be_is_refused(small: ResidualChain) -> None:
    images = [make_images(small, 2)]
    wishes: list[dict[str, Any]] = [
        {"count": 8},
        {"count": -1},
        {"effort": 0.0},
        {"price": [1.0]},
        {"price": [0.0] * 7},
    ]
    for wish in wishes:
        with pytest.raises(UsageError):
            order_removals(small, images, **wish)
    with pytest.raises(DataError, match="no images"):
        order_removals(small, [])
    with torch.no_grad():
        small.network.get_parameter("linear.bias").fill_(float("nan"))
    with pytest.raises(ArchitectureError, match="not finite"):
        order_removals(small, images)


def test_what_a_set_of_blocks_adds_is_what_greedy_found(small: ResidualChain) -> None:
    images = make_images(small, 8)
    order = order_removals(small, images.split(3), count=3, effort=math.inf)
    found = divergence_without(small, images.split(3), [removal.index for removal in order])
    assert found == pytest.approx(order[-1].divergence, rel=1e-4)
