"""The stage cost objective and the step that drives whole branches to zero.

Source: equation (3) and Theorem 1 of the paper:
``J = sum_{k<N} gamma L(yhat_k) + L(yhat_N) + lambda/2 sum_k ||w_F,k||^2``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resprune.chain import Block, ResidualChain
from resprune.errors import ArchitectureError
from resprune.families.layers import leaves


class StageCost(NamedTuple):
    """The data's part of the objective, and the losses that it is made of.

    Attributes:
        total: Scalar to be minimised.
        losses: (N + 1,) mean cross-entropy of every exit and the final output, in nats.
        distillation: Scalar, ``temperature^2 KL(teacher || final)``; None without a teacher.
    """

    total: Tensor
    losses: Tensor
    distillation: Tensor | None


def stage_cost(
    logits: Tensor,
    targets: Tensor,
    gamma: float,
    *,
    label_smoothing: float = 0.0,
    teacher: Tensor | None = None,
    teacher_weight: float = 0.0,
    temperature: float = 1.0,
) -> StageCost:
    """Return ``sum_{k<N} gamma L(yhat_k) + L(yhat_N)``, L the mean cross-entropy.

    With a teacher the final output's loss is ``(1 - w) L(yhat_N) + w T^2 KL(teacher || yhat_N)``, both
    softened by the temperature T (Hinton, Vinyals, Dean 2015).

    Args:
        logits: (n, N + 1, classes), exits 0..N-1 and the network's output.
        targets: Class indices (n,), or probabilities (n, classes).
        gamma: Weight of every exit's loss; 0 is standard training.
        label_smoothing: Probability that is spread over all classes.
        teacher: Logits (n, classes) of the network to stay close to.
        teacher_weight: w, from 0 to 1.
        temperature: T.
    """
    n, exits, _ = logits.shape
    each = F.cross_entropy(
        logits.flatten(0, 1),
        targets.repeat_interleave(exits, dim=0),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    losses = each.view(n, exits).mean(0)
    final, distillation = losses[-1], None
    if teacher is not None and teacher_weight:
        distillation = temperature**2 * F.kl_div(
            F.log_softmax(logits[:, -1] / temperature, dim=1),
            F.log_softmax(teacher / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        final = (1 - teacher_weight) * final + teacher_weight * distillation
    total = final + gamma * losses[:-1].sum() if gamma else final
    return StageCost(total, losses.detach(), None if distillation is None else distillation.detach())


def feature_loss(features: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
    """Return the mean over the states of ``||x - t||^2 / ||t||^2``, a scalar without a unit.

    Args:
        features: States (n, c, h, w) of the network that learns.
        taught: Those of its teacher, of the same shapes.
    """
    each = [_square_sum(x - t) / _square_sum(t) for x, t in zip(features, taught, strict=True)]
    return torch.stack(each).mean()


def _square_sum(x: Tensor) -> Tensor:
    """Return ``||x||^2``, of bf16 states in single precision."""
    return x.square().sum(dtype=torch.promote_types(x.dtype, torch.float32))


def branch_penalty(chain: ResidualChain, branch_decay: float) -> float:
    """Return ``lambda / 2 * sum_k ||w_F,k||^2`` (Theorem 1)."""
    parameters = (p.detach() for block in chain.blocks for p in block.branch.parameters())
    return 0.5 * branch_decay * float(sum(p.square().sum() for p in parameters))


def vanishing_group(block: Block) -> list[nn.Parameter]:
    """Return the parameters that switch the branch off: its last convolution, and what follows it.

    Empty where the branch does not end in a convolution that is known to be run after all others, or where a
    norm behind it gives something of zeros: its mean, which no parameter of its own can switch off.
    """
    layers = leaves(block.branch)
    convolutions = [index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    tail = layers[convolutions[-1] :] if convolutions else []
    if any(buffers and not parameters for buffers, parameters in map(_tensors, tail)):
        return []
    return [parameter for layer in tail for parameter in layer.parameters()]


def _tensors(layer: nn.Module) -> tuple[int, int]:
    """Return how many buffers and parameters a layer has."""
    return len(list(layer.buffers())), len(list(layer.parameters()))


def check_vanishing(chain: ResidualChain) -> None:
    """Check that every branch can be switched off.

    Raises:
        ArchitectureError: where one cannot.
    """
    for block in chain.blocks:
        if not vanishing_group(block):
            raise ArchitectureError(
                "its branch has no last convolution that could be set to zero",
                where=block.path,
                hint="fine-tune without vanishing branches",
            )


LOG_SCALE = 0.1
"""Norm, relative to 1, below which the pull of `shrink_branches` on a group stops growing."""


@torch.no_grad()
def shrink_branches(chain: ResidualChain, step: float) -> None:
    """Take one proximal step of ``step * sqrt(size) * log(1 + ||group|| / LOG_SCALE)``, in place.

    Each branch is one group (see `vanishing_group`). The logarithm is the reweighted group lasso (Candes,
    Wakin, Boyd 2008): its pull, ``1 / (LOG_SCALE + norm)``, is weak on branches that carry something and
    strong on those that do not, which a constant pull cannot do without hurting the first. A group whose
    norm is below the threshold becomes exactly zero, so that dropping the block is exact.

    Args:
        chain: Whose branches shrink.
        step: Learning rate times strength of the penalty.
    """
    for block in chain.blocks:
        group = vanishing_group(block)
        norm = torch.stack([parameter.square().sum() for parameter in group]).sum().sqrt()
        size = sum(parameter.numel() for parameter in group)
        threshold = step * math.sqrt(size) / (LOG_SCALE + norm)
        # Without a look at the number: that would make a GPU wait. A zero group stays zero.
        scale = (1 - threshold / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_min(0)
        for parameter in group:
            parameter.mul_(scale)


def zero_branches(chain: ResidualChain) -> tuple[int, ...]:
    """Return the blocks that `vanishing_group` switches off: dropping them is exact."""
    groups = {block.index: vanishing_group(block) for block in chain.blocks}
    return tuple(index for index, group in groups.items() if group and not any(map(torch.any, group)))
