"""Chain and plan become a new chain; the input is never changed."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.checks import check_mode
from resprune.errors import UsageError
from resprune.records import BARE, GONE, WHOLE, Architecture, PrunePlan


def remove_blocks(chain: ResidualChain, plan: PrunePlan) -> ResidualChain:
    """Return the SubResNet that a plan describes: removed blocks are reduced to their skip steps.

    A skip step that does nothing leaves nothing behind; others stay under their native names. Where the
    exits have batch-norm statistics or heads of their own and the plan is a tail, the head and the skip steps
    behind the cut take those of exit M (Definition 1 and Lemma 2 of the paper).

    Args:
        chain: Left as it is; nothing is shared with the result.
        plan: Indices of the chain's blocks.

    Raises:
        UsageError: where the plan names blocks that the chain lacks, or its network is in training mode.
    """
    check_mode(chain.network, chain.origin.path)
    architecture, letters = reduced_architecture(chain, plan), _letters(chain, plan)
    memo: dict[int, Any] = {}
    network = copy.deepcopy(chain.network, memo)
    families.reduce(network, chain.family.split(network, chain.architecture), letters)
    pruned = assemble(network, architecture, chain.preprocessing, chain.origin, family=chain.family)
    if not plan.is_tail:
        return pruned  # nothing of the exits' own describes a network with blocks removed from its middle
    twins = {name: memo[key] for key, name in chain.tensor_names().items()}
    return replace(pruned, exit_state=_move_exit_state(pruned, chain.exit_state, twins, plan.depth))


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
def _move_exit_state(
    pruned: ResidualChain, rows: Mapping[str, Tensor], twins: Mapping[str, Tensor], depth: int
) -> dict[str, Tensor]:
    """Give exit M's tensors to the network behind the cut, in place; return those of the exits before it.

    Args:
        pruned: SubResNet-M.
        rows: Name in the origin -> (exits, ...).
        twins: Name in the origin -> its copy, which the pruned network may have under another name.
        depth: M.
    """
    names, moved = pruned.tensor_names(), {}
    for name, own in rows.items():
        twin = twins[name]
        if id(twin) not in names:
            continue
        if depth < len(own):
            twin.copy_(own[depth])
        if depth:
            moved[names[id(twin)]] = own[:depth].clone()
    return moved


def skip_blocks(chain: ResidualChain, images: Tensor, removed: tuple[int, ...]) -> Tensor:
    """Return the logits (n, classes) of the chain with some blocks reduced to their skip steps on the fly.

    The reference for a pruned network that was not built from an exit.
    """
    x = chain.stem(images)
    for block in chain.blocks:
        x = block.skip(x) if block.index in removed else block(x)
    return chain.resume(chain.depth, x)
