"""What a budget allows of sizes and speed, by properties: what the pruned network has, and monotone."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images
from hypothesis import given, settings
from hypothesis import strategies as st

from resprune import pipeline
from resprune.allowance import Allowance
from resprune.chain import ResidualChain
from resprune.records import Budget, Speed
from resprune.savings import savings
from resprune.selection import select
from resprune.sensitivity import order_removals

BLOCKS = st.sets(st.integers(0, 7))
SHARE = st.floats(0.01, 0.99)


@cache
def network() -> ResidualChain:
    return make_chain(ARCHITECTURES["cifar option A"])


def slow(others: ResidualChain) -> Speed:
    """Every block takes as long as the rest of the network."""
    factor = (1 + network().depth) / (1 + others.depth)
    return Speed(factor, (factor, factor), 1, 1, "cpu")


@given(st.sets(st.integers(0, 7), min_size=1), st.booleans(), st.booleans())
@settings(max_examples=12, deadline=None)
def test_limits_are_kept_exactly_where_the_pruned_network_keeps_them(
    gone: set[int], keeps_macs: bool, keeps_parameters: bool
) -> None:
    chain = network()
    left = pipeline.preview(chain, select(remove=sorted(gone), blocks=chain.depth))
    macs = left.macs / chain.summary.macs + (1e-6 if keeps_macs else -1e-6)
    parameters = left.parameters / chain.summary.parameters + (1e-6 if keeps_parameters else -1e-6)
    missed = Allowance(chain, Budget(macs=macs, parameters=parameters)).missed(gone)
    assert (missed is None) == (keeps_macs and keeps_parameters)
    if missed is not None:
        assert ("MACs" if not keeps_macs else "parameters") in missed


@given(BLOCKS, BLOCKS, SHARE, SHARE, st.floats(1.01, 9.0), st.floats(0, 0.5))
@settings(max_examples=12, deadline=None)
def test_limits_are_monotone(
    gone: set[int], more: set[int], macs: float, parameters: float, speedup: float, room: float
) -> None:
    budget = Budget(macs=macs, parameters=parameters, speedup=speedup)
    looser = Budget(
        macs=min(0.999, macs + room),
        parameters=min(0.999, parameters + room),
        speedup=max(1.001, speedup - room),
    )
    own = Allowance(network(), budget, slow)
    if own.missed(gone) is None:
        assert own.missed(gone | more) is None
        assert Allowance(network(), looser, slow).missed(gone) is None


def test_every_speed_is_measured_once() -> None:
    asked: list[int] = []

    def clock(other: ResidualChain) -> Speed:
        asked.append(other.depth)
        return slow(other)

    own = Allowance(network(), Budget(speedup=2.0), clock)
    assert own.missed([]) == "it is 1.00 times faster, and 2 is asked for"
    assert asked == []
    for _ in range(2):
        assert own.missed([3, 1]) is not None
        assert own.told_speed([1, 3]) == own.measured[frozenset({1, 3})]
    assert asked == [6]
    assert own.told_speed([]) is None
    assert Allowance(network(), Budget(macs=0.5)).told_speed([1]) is None


@pytest.mark.parametrize("compensated", [False, True])
def test_ties_are_decided_by_the_saving_and_then_by_the_index(compensated: bool) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with torch.no_grad():
        for block in chain.blocks:
            for parameter in block.branch.parameters():
                parameter.zero_()
    saved = savings(chain)
    found = order_removals(chain, [make_images(chain, 4)], compensated=compensated)
    order = [removal.index for removal in found]
    assert order == sorted(range(chain.depth), key=lambda k: (-saved[k], k))
    assert math.isclose(found[-1].divergence, 0, abs_tol=1e-9)
