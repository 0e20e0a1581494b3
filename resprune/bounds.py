"""Bounds 1 and 2 of the paper: what a SubResNet, trained by itself, promises of the whole network.

Source: Theorems 1 and 2 in section 3 and appendix B. Both bounds are on training losses, for weights that
are optimal; elsewhere their gaps are figures and no promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError, DataError, UsageError
from resprune.records import Bounds, Trajectory


def bounds(network: Trajectory, sub: Trajectory, *, gamma: float, branch_decay: float) -> Bounds:
    """Return every term of both theorems for a network of N blocks and its SubResNet of M.

    Args:
        network: Of the network that was trained with the stage cost.
        sub: Of the SubResNet that was trained without it, on the same images.
        gamma: Weight of every exit's loss; above 0, and at most 1 as the proof of Theorem 2 has it.
        branch_decay: Lambda, weight decay on the residual branches.

    Raises:
        UsageError: where gamma or lambda is out of range.
        DataError: where there were no labels, or not as many images for both.
        ArchitectureError: where the SubResNet has more blocks than the network.
    """
    check_weights(gamma, branch_decay)
    if sub.depth > network.depth:
        raise ArchitectureError(f"{sub.depth} blocks, which is no SubResNet of {network.depth} blocks")
    if sub.final.samples != network.final.samples:
        raise DataError(f"{sub.final.samples} images instead of {network.final.samples}")
    losses, sub_losses = exit_losses(network), exit_losses(sub)
    return Bounds(
        sub_blocks=sub.depth,
        gamma=gamma,
        branch_decay=branch_decay,
        sub_loss=sub_losses[-1],
        objective=objective(losses, branch_norms(network), gamma, branch_decay),
        objective_bound=objective_bound(
            sub_losses, branch_norms(sub), gamma, branch_decay, blocks=network.depth
        ),
        average_loss=math.fsum(losses) / len(losses),
        average_loss_bound=average_loss_bound(sub_losses, gamma, blocks=network.depth),
    )


def objective(losses: Sequence[float], norms: Sequence[float], gamma: float, branch_decay: float) -> float:
    """Return ``J_N = sum_{k<N} [gamma L(yhat_k) + lambda/2 ||w_F,k||^2] + L(yhat_N)`` (Theorem 1).

    Args:
        losses: Of exits 0..N, in nats.
        norms: L2 norms of the branches' parameters, blocks 0..N-1.
        gamma: Weight of every exit's loss.
        branch_decay: Lambda.
    """
    return math.fsum([*_stage_costs(losses, norms, gamma, branch_decay), losses[-1]])


def objective_bound(
    losses: Sequence[float], norms: Sequence[float], gamma: float, branch_decay: float, *, blocks: int
) -> float:
    """Return ``J_bar_N``, Theorem 1's bound on the objective of a network of N blocks.

    ``J_bar_N = sum_{k<M} [gamma L(yhat_k^M) + lambda/2 ||w_F,k^M||^2] + (1 + gamma (N - M)) L_bar``.

    Args:
        losses: Of the SubResNet's exits 0..M; the last is ``L_bar``.
        norms: Of the SubResNet's branches 0..M-1.
        gamma: Weight of every exit's loss.
        branch_decay: Lambda.
        blocks: N.
    """
    rest = (1 + gamma * (blocks - len(norms))) * losses[-1]
    return math.fsum([*_stage_costs(losses, norms, gamma, branch_decay), rest])


def average_loss_bound(losses: Sequence[float], gamma: float, *, blocks: int) -> float:
    """Return ``L_bar_avg``, Theorem 2's bound on the mean loss of exits 0..N.

    ``L_bar_avg = L_bar + C / (N + 1)``, where
    ``C = sum_{k<M} L(yhat_k^M) + (1 - gamma - gamma M) / gamma * L_bar``.

    Args:
        losses: Of the SubResNet's exits 0..M; the last is ``L_bar``.
        gamma: Above 0.
        blocks: N.
    """
    *earlier, last = losses
    constant = math.fsum(earlier) + (1 - gamma - gamma * len(earlier)) / gamma * last
    return last + constant / (blocks + 1)


def exit_losses(trajectory: Trajectory) -> list[float]:
    """Return the losses of exits 0..N, in nats.

    Raises:
        DataError: where there were no labels.
    """
    losses = [*[row.exit_loss for row in trajectory.rows], trajectory.final.loss]
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses):
        raise DataError("there are no labels, and bounds are on losses", hint="use labelled images")
    return known


def branch_norms(trajectory: Trajectory) -> list[float]:
    """Return ``||w_F,k||`` of every block."""
    return [row.parameter_norm for row in trajectory.rows]


def check_weights(gamma: float, branch_decay: float) -> None:
    """Check the objective's weights.

    Raises:
        UsageError: where one is out of range.
    """
    if not 0 < gamma <= 1:
        raise UsageError(
            f"the bounds need a gamma above 0 and at most 1, got {gamma:g}",
            hint="give that of the run, --gamma",
        )
    if not 0 <= branch_decay < math.inf:
        raise UsageError(
            f"lambda must be at least 0, got {branch_decay:g}", hint="give that of the run, --lambda"
        )


def check_sub(chain: ResidualChain, sub: ResidualChain) -> None:
    """Check that a network has the shape of a SubResNet of another (Definition 1).

    Raises:
        ArchitectureError: where classes, depth, stem, blocks or head differ.
    """
    hint = "give a network with the first blocks of CKPT, such as resprune prune --depth M makes"

    def refuse(what: str) -> ArchitectureError:
        return ArchitectureError(what, where=sub.origin.path, hint=hint)

    if sub.classes != chain.classes:
        raise refuse(f"{sub.classes} classes instead of {chain.classes}")
    if sub.depth > chain.depth:
        raise refuse(f"{sub.depth} blocks, which is no SubResNet of {chain.depth} blocks")
    mine = [_shapes(block.part.module.parameters()) for block in chain.blocks[: sub.depth]]
    others = [_shapes(block.part.module.parameters()) for block in sub.blocks]
    for block, own, other in zip(sub.blocks, mine, others, strict=True):
        if own != other:
            raise refuse(f"block {block.index} ({block.path}) has other parameters than block {block.index}")
    for part, own, other in (("stem", chain.stem, sub.stem), ("head", chain.head, sub.head)):
        if _shapes(own.parameters()) != _shapes(other.parameters()):
            raise refuse(f"the {part} has other parameters")


def _shapes(parameters: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in parameters]


def _stage_costs(
    losses: Sequence[float], norms: Sequence[float], gamma: float, branch_decay: float
) -> list[float]:
    return [gamma * loss + branch_decay / 2 * norm**2 for loss, norm in zip(losses[:-1], norms, strict=True)]
