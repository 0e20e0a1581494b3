"""Chain and plan become a new chain; the input is never changed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from resprune import families
from resprune.chain import ExitStatistics, ResidualChain, assemble
from resprune.errors import UsageError
from resprune.records import BARE, GONE, WHOLE, Architecture, PrunePlan


def remove_blocks(chain: ResidualChain, plan: PrunePlan) -> ResidualChain:
    """Return the SubResNet that a plan describes: removed blocks are reduced to their skip steps.

    A skip step that does nothing leaves nothing behind; others stay under their native names. Where the
    exits have batch-norm statistics of their own and the plan is a tail, the head and the skip steps
    behind the cut take those of exit M (Definition 1 and Lemma 2 of the paper).

    Args:
        chain: Left as it is; nothing is shared with the result.
        plan: Indices of the chain's blocks.

    Raises:
        UsageError: where the plan names blocks that the chain lacks.
    """
    architecture, letters = reduced_architecture(chain, plan), _letters(chain, plan)
    memo: dict[int, Any] = {}
    network = copy.deepcopy(chain.network, memo)
    families.reduce(network, chain.family.split(network, chain.architecture), letters)
    twins = {memo[id(norm)]: path for norm, path in chain.named_norms().items()}
    statistics = _move_exit_statistics(network, chain.exit_statistics, twins, plan)
    return assemble(network, architecture, chain.preprocessing, chain.origin, statistics, chain.family)


def reduced_architecture(chain: ResidualChain, plan: PrunePlan) -> Architecture:
    """Return the architecture that a plan leads to.

    Raises:
        UsageError: where the plan names blocks that the chain lacks.
    """
    if sorted((*plan.removed, *plan.kept)) != list(range(chain.depth)):
        raise UsageError(f"the plan is for {len(plan.removed) + len(plan.kept)} blocks, not for {chain.depth}")
    old = chain.architecture
    if not plan.removed:
        return old
    stages = _letters(chain, plan)
    if chain.family.depth_is_free(old):
        stages = tuple(letters.replace(GONE, "") for letters in stages)
    else:
        stages = tuple(_overlay(before, after) for before, after in zip(old.stages, stages, strict=True))
    return replace(old, name=f"{re.sub(r'-sub[0-9]+$', '', old.name)}-sub{plan.depth}", stages=stages)


def _letters(chain: ResidualChain, plan: PrunePlan) -> tuple[str, ...]:
    """Return one letter for each native block of the chain: whole, bare, or gone altogether."""
    removed = {chain.blocks[index].path for index in plan.removed}
    stages = [""] * len(chain.architecture.stages)
    for part in chain.parts:
        if part.path in removed:
            stages[part.stage] += GONE if part.step_is_trivial else BARE
        else:
            stages[part.stage] += BARE if part.branch is None else WHOLE
    return tuple(stages)


def _overlay(before: str, after: str) -> str:
    """Put the letters of the blocks that are there into a stage that remembers those that are gone."""
    letters = iter(after)
    return "".join(GONE if letter == GONE else next(letters) for letter in before)


@torch.no_grad()
def _move_exit_statistics(
    network: nn.Module,
    statistics: Mapping[str, ExitStatistics],
    twins: Mapping[object, str],
    plan: PrunePlan,
) -> dict[str, ExitStatistics]:
    """Give exit M's statistics to the norms behind the cut; return those of the exits before it.

    After a removal from the middle no exit's statistics describe the new network: none are kept.
    """
    moved: dict[str, ExitStatistics] = {}
    if not plan.is_tail:
        return moved
    depth = plan.depth
    for path, norm in network.named_modules():
        old = statistics.get(twins.get(norm, ""))
        if old is None or not isinstance(norm, nn.BatchNorm2d):
            continue
        rows = len(old.mean)
        if depth < rows and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.copy_(old.mean[depth])
            norm.running_var.copy_(old.var[depth])
        keep = min(depth, rows)
        if keep:
            moved[path] = ExitStatistics(old.mean[:keep].clone(), old.var[:keep].clone())
    return moved


def skip_blocks(chain: ResidualChain, images: Tensor, removed: tuple[int, ...]) -> Tensor:
    """Return the logits (n, classes) of the chain with some blocks reduced to their skip steps on the fly.

    The reference for a pruned network that was not built from an exit.
    """
    x = chain.stem(images)
    for block in chain.blocks:
        x = block.skip(x) if block.index in removed else block(x)
    return chain.resume(chain.depth, x)
