"""Latency: turns, medians and prices on a clock that the test moves; nothing here is timed."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from torch import Tensor, nn

from resprune.chain import ResidualChain
from resprune.errors import UsageError
from resprune.latency import (
    LEAST_PRICE_MS,
    LEAST_ROUNDS,
    WARM_UP,
    block_prices,
    measure,
    peak_memory,
    places,
)
from resprune.records import Latency

IMAGES = torch.zeros(4, 1, 2, 2)


@dataclass
class Machine:
    """A clock, and networks that move it by what the test says."""

    now: float = 0.0
    log: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def network(self, name: str, *milliseconds: float) -> Callable[[Tensor], None]:
        """A network whose calls take these times in turn, after warm-up calls that take ages."""
        calls = 0

        def run(images: Tensor) -> None:
            nonlocal calls
            self.log.append(name)
            turn = calls - WARM_UP
            self.now += 99.0 if turn < 0 else milliseconds[turn % len(milliseconds)] / 1000
            calls += 1

        return run


def latency(*samples: float, batch_size: int = 1) -> Latency:
    return Latency(samples, batch_size, 1, "cpu")


def test_two_candidates_take_turns_and_change_places() -> None:
    assert [places(turn, 2) for turn in range(4)] == [[0, 1], [1, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize("candidates", [1, 2, 3, 5])
def test_every_candidate_is_in_every_place_equally_often(candidates: int) -> None:
    orders = [places(turn, candidates) for turn in range(2 * candidates)]
    assert all(sorted(order) == list(range(candidates)) for order in orders)
    for place in range(candidates):
        assert sorted(order[place] for order in orders) == sorted(list(range(candidates)) * 2)


def test_samples_are_the_calls_times_and_warming_up_is_none() -> None:
    machine = Machine()
    networks = [machine.network("a", 1, 2, 3), machine.network("b", 10, 20, 30)]
    a, b = measure(networks, IMAGES, rounds=3, clock=machine.clock)
    assert a.samples_ms == pytest.approx((1, 2, 3))
    assert b.samples_ms == pytest.approx((10, 20, 30))
    assert "".join(machine.log) == "a" * WARM_UP + "b" * WARM_UP + "ab" + "ba" + "ba"
    assert (a.batch_size, a.device, a.threads) == (4, "cpu", torch.get_num_threads())


@pytest.mark.parametrize(
    ("seconds", "each", "rounds"),
    [(1.0, 2000, LEAST_ROUNDS), (1.0, 50, 20), (1.05, 50, 22)],
    ids=["slow", "as long as asked", "an even number"],
)
def test_as_many_rounds_as_the_time_allows(seconds: float, each: float, rounds: int) -> None:
    machine = Machine()
    (own,) = measure([machine.network("a", each)], IMAGES, seconds=seconds, clock=machine.clock)
    assert own.rounds == rounds


def test_median_spread_and_throughput() -> None:
    own = latency(5, 1, 2, 4, 30, batch_size=8)
    assert (own.median_ms, own.iqr_ms, own.rounds) == (4, 3, 5)
    assert own.throughput == 2000
    assert (latency(7).median_ms, latency(7).iqr_ms) == (7, 0)


def test_the_ratio_is_taken_in_every_round() -> None:
    ratio = latency(1, 100, 2).ratio_to(latency(1, 50, 4))
    assert (ratio.low, ratio.median, ratio.high) == (0.75, 1, 1.5)  # of the medians it would be 0.5
    with pytest.raises(ValueError, match="shorter"):
        latency(1, 2).ratio_to(latency(1))


def test_calls_run_in_inference_mode_without_the_garbage_collector() -> None:
    seen: list[tuple[bool, bool]] = []
    measure([lambda images: seen.append((torch.is_inference_mode_enabled(), gc.isenabled()))], IMAGES, rounds=2)
    assert seen[WARM_UP:] == [(True, False)] * 2
    assert gc.isenabled()


def test_the_garbage_collector_is_back_after_an_exception() -> None:
    calls: list[int] = []

    def fail(images: Tensor) -> None:
        calls.append(1)
        if len(calls) > WARM_UP:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        measure([fail], IMAGES, rounds=2)
    assert gc.isenabled()


@pytest.mark.parametrize(("rounds", "seconds"), [(0, 1.0), (None, 0.0), (None, math.nan), (None, math.inf)])
def test_no_rounds_and_no_time_are_refused(rounds: int | None, seconds: float) -> None:
    with pytest.raises(UsageError):
        measure([lambda images: None], IMAGES, rounds=rounds, seconds=seconds)
    with pytest.raises(UsageError):
        block_prices(make_chain(ARCHITECTURES["cifar option B"]), IMAGES, rounds=rounds, seconds=seconds)


@pytest.mark.parametrize(
    "chain", ["cifar option A", "cifar bottleneck", "torchvision basic", "preact standard"], indirect=True
)
def test_a_block_costs_what_it_takes_beyond_its_skip_step(chain: ResidualChain, images: Tensor) -> None:
    machine = Machine()

    def takes(milliseconds: float) -> Callable[..., None]:
        def hook(*_: object) -> None:
            machine.now += milliseconds / 1000

        return hook

    before = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    handles = [block.part.module.register_forward_hook(takes(block.index + 1)) for block in chain.blocks]
    # A step is a module of its own, so that its hook is silent while the whole block runs.
    handles += [block.steps[-1].register_forward_hook(takes(0.25)) for block in chain.blocks if block.steps]
    prices = block_prices(chain, images, rounds=3, clock=machine.clock)
    for handle in handles:
        handle.remove()
    assert prices == pytest.approx([k + 1 - 0.25 * bool(chain.blocks[k].steps) for k in range(chain.depth)])
    after = chain.network.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_blocks_are_measured_on_their_real_input() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    images = make_images(chain, 2)
    x = chain.stem(images)
    for block in chain.blocks[:4]:
        x = block(x)
    seen: list[Tensor] = []
    handle = chain.blocks[4].part.module.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    block_prices(chain, images, rounds=2)
    handle.remove()
    assert len(seen) >= 4
    assert all(torch.equal(x, state) for state in seen)


def test_prices_are_positive_where_nothing_can_be_measured() -> None:
    chain = make_chain(ARCHITECTURES["cifar option B"])
    prices = block_prices(chain, make_images(chain, 1), rounds=2, clock=lambda: 0.0)
    assert prices == (LEAST_PRICE_MS,) * chain.depth


MEBIBYTE = 2**20


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.ReLU(), 2),
        (nn.Sequential(nn.ReLU(), nn.SiLU(), nn.ReLU(), nn.SiLU()), 3),
        (nn.ReLU(inplace=True), 1),
    ],
    ids=["input and output", "two states and the input", "in place"],
)
def test_peak_memory_is_what_tensors_take_at_most(network: nn.Module, expected: int) -> None:
    images = torch.zeros(1, 4, 256, 256)  # one mebibyte
    assert peak_memory(network, network, images) == expected * MEBIBYTE


def test_weights_count_once_however_often_they_are_used() -> None:
    layer = nn.Linear(512, 512, bias=False)  # one mebibyte
    network = nn.Sequential(layer, layer)
    images = torch.zeros(1, 512)
    assert peak_memory(network, network, images) == MEBIBYTE + 3 * 2048
