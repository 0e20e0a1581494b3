"""What the removal of each block saves."""

from __future__ import annotations

from collections.abc import Iterable

from resprune.chain import ResidualChain
from resprune.records import PrunePlan
from resprune.surgery import remove_blocks


def savings(chain: ResidualChain) -> tuple[int, ...]:
    """Return the multiply-accumulates for one image that each block's removal saves; projections stay."""
    kept = {block.index: 0 for block in chain.blocks}
    for block in chain.blocks:
        if not block.part.step_is_trivial:
            plan = PrunePlan.without((block.index,), chain.depth, "saving")
            without = remove_blocks(chain.outline, plan)
            kept[block.index] = chain.costs[block.index][0] - (chain.summary.macs - without.summary.macs)
    return tuple(chain.costs[k][0] - macs for k, macs in kept.items())


def parameter_savings(chain: ResidualChain) -> tuple[int, ...]:
    """Return the parameters that each block's removal saves; projections stay."""
    return tuple(sum(p.numel() for p in block.branch.parameters()) for block in chain.blocks)


def prices(saved: Iterable[int]) -> tuple[int, ...]:
    """Return what is saved as prices, which are positive: a branch may have no convolution and no parameter."""
    return tuple(max(1, own) for own in saved)
