"""How long networks take, measured so that the figures can be believed.

All candidates take turns in every round and change places from round to round, so that a clock that drops,
another program or a warm cache meets all of them alike. Medians are told, with the spread beside them.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from statistics import median
from typing import Any

import torch
from torch import Tensor

from resprune.arguments import check_count
from resprune.chain import ResidualChain, seeded_images
from resprune.errors import UsageError
from resprune.records import Latency

SECONDS = 3.0
"""How long is measured by default, over all candidates together."""
LEAST_ROUNDS = 10
"""How many rounds at least, however long they take."""
WARM_UP = 3
"""How often every candidate is called before it counts: memory is allocated and kernels chosen by then."""
LEAST_PRICE_MS = 1e-6
"""What a block is worth at least: prices must be positive, and a difference below this is noise."""

Clock = Callable[[], float]
"""Seconds since any fixed moment."""
Network = Callable[[Tensor], object]
"""Anything that takes images (n, c, h, w): a chain, a module, a compiled one."""


@torch.inference_mode()
def measure(
    candidates: Sequence[Network],
    images: Tensor,
    *,
    rounds: int | None = None,
    seconds: float = SECONDS,
    clock: Clock = time.perf_counter,
) -> tuple[Latency, ...]:
    """Return the times of one call of every candidate, measured side by side.

    Args:
        candidates: In eval mode, on the images' device.
        images: (n, c, h, w), in the memory format to be measured.
        rounds: How many; each calls every candidate once. By default as many as ``seconds`` allow.
        seconds: Measure for so long, `LEAST_ROUNDS` rounds at least and an even number; warming up is not
            counted.
        clock: Of the measurement.

    Raises:
        UsageError: where there are no rounds, or no time for them.
    """
    _check_budget(rounds, seconds)
    settle = _settling(images.device)
    for candidate in candidates:
        for _ in range(WARM_UP):
            candidate(images)
    settle()
    samples: list[list[float]] = [[] for _ in candidates]
    with _undisturbed():
        for turn in _rounds(rounds, seconds, clock):
            for index in places(turn, len(candidates)):
                samples[index].append(_milliseconds(partial(candidates[index], images), settle, clock))
    place = str(images.device)
    return tuple(Latency(tuple(own), len(images), torch.get_num_threads(), place) for own in samples)


def images_to_time(chain: ResidualChain, images: int, seed: int) -> Tensor:
    """Return seeded noise (images, c, h, w) of a network's size, in channels-last format on its device."""
    check_count("latency_batch", images)
    noise = seeded_images(chain.preprocessing, images, seed).to(chain.device)
    return noise.contiguous(memory_format=torch.channels_last)


def places(turn: int, candidates: int) -> list[int]:
    """Return the order of the candidates in a round: AB, BA, BA, AB for two, and so on.

    Every other round goes backwards, and the start moves on after each pair of them.
    """
    start = turn // 2
    order = [(start + position) % candidates for position in range(candidates)]
    return order[::-1] if turn % 2 else order


@torch.inference_mode()
def block_prices(
    chain: ResidualChain,
    images: Tensor,
    *,
    rounds: int | None = None,
    seconds: float = SECONDS,
    clock: Clock = time.perf_counter,
) -> tuple[float, ...]:
    """Return the milliseconds that the removal of each block saves, positive: the price of `order_removals`.

    A block is measured against its skip step on its real input, in the course of a pass through the
    network, so that it finds memory and caches as it does in use. Which of the two comes first changes with
    the round and the block. A block's price is the median of the differences.

    Args:
        chain: Any; left as it is.
        images: (n, c, h, w) of the batch size that the network is to be fast for, on the chain's device.
        rounds: How many passes; by default as many as ``seconds`` allow.
        seconds: Measure for so long, `LEAST_ROUNDS` passes at least.
        clock: Of the measurement.

    Raises:
        UsageError: where there are no rounds, or no time for them.
    """
    _check_budget(rounds, seconds)
    settle = _settling(images.device)
    for _ in range(WARM_UP):
        chain(images)
    differences: list[list[float]] = [[] for _ in chain.blocks]
    with _undisturbed():
        for turn in _rounds(rounds, seconds, clock):
            x = chain.stem(images)
            for block in chain.blocks:
                whole, bare = partial(block, x), partial(block.skip, x)
                settle()
                if (turn + block.index) % 2:
                    saved = -_milliseconds(bare, settle, clock)
                    saved += _milliseconds(whole, settle, clock)
                else:
                    saved = _milliseconds(whole, settle, clock)
                    saved -= _milliseconds(bare, settle, clock)
                differences[block.index].append(saved)
                x = block(x)
    return tuple(max(median(own), LEAST_PRICE_MS) for own in differences)


@torch.inference_mode()
def peak_memory(network: torch.nn.Module, run: Network, images: Tensor) -> int:
    """Return the most bytes that tensors take during a call: weights, input, and all that is made on the way.

    It is what torch's allocator hands out, counted call by call: the same on every run, and not the size of
    the process, which has the interpreter and, on a CPU, the libraries' own working memory besides.

    Args:
        network: Whose parameters and buffers count.
        run: Calls it; ready to run, compiled before.
        images: (n, c, h, w).
    """
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _state(network)
    }
    fixed = sum(held.values()) + images.untyped_storage().nbytes()
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
        before = torch.cuda.memory_allocated(images.device)
        torch.cuda.reset_peak_memory_stats(images.device)
        run(images)
        torch.cuda.synchronize(images.device)
        return fixed + torch.cuda.max_memory_allocated(images.device) - before
    # The profiler's library writes lines to stderr otherwise, and asks once.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run(images)
    recorded: Any = profile.profiler  # torch's annotations lack what its events have
    events = [
        (event.start_ns(), event.nbytes())
        for event in recorded.kineto_results.events()
        if event.name() == "[memory]"
    ]
    taken = most = 0
    for _, change in sorted(events, key=lambda event: event[0]):
        taken += change
        most = max(most, taken)
    return fixed + most


def _state(network: torch.nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _milliseconds(call: Callable[[], object], settle: Callable[[], None], clock: Clock) -> float:
    start = clock()
    result = call()
    settle()
    elapsed = clock() - start
    del result  # kept until now: giving memory back is not part of the call
    return 1000 * elapsed


def _rounds(rounds: int | None, seconds: float, clock: Clock) -> Iterator[int]:
    if rounds is not None:
        yield from range(rounds)
        return
    start = clock()
    for turn in count():
        if turn >= LEAST_ROUNDS and turn % 2 == 0 and clock() - start >= seconds:
            return
        yield turn


def _check_budget(rounds: int | None, seconds: float) -> None:
    if rounds is not None:
        check_count("rounds", rounds)
    if not 0 < seconds < float("inf"):
        raise UsageError(f"the time to measure must be a number of seconds above 0, got {seconds}")


def _settling(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done all that it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the garbage collector out of the measurement."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
