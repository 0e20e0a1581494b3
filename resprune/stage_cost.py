"""The stage cost objective and the step that drives whole branches to zero.

Source: equation (3) and Theorem 1 of the paper:
``J = sum_{k<N} gamma L(yhat_k) + L(yhat_N) + lambda/2 sum_k ||w_F,k||^2``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resprune.chain import Block, ResidualChain


def stage_cost(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """Return ``sum_{k<N} gamma L(yhat_k) + L(yhat_N)``, L the mean cross-entropy in nats.

    Args:
        logits: (n, N + 1, classes), exits 0..N-1 and the network's output.
        targets: Class indices (n,).
        gamma: Weight of every exit's loss; 0 is standard training.
    """
    n, exits, classes = logits.shape
    losses = F.cross_entropy(
        logits.reshape(n * exits, classes), targets.repeat_interleave(exits), reduction="none"
    )
    per_exit = losses.view(n, exits).mean(0)
    return gamma * per_exit[:-1].sum() + per_exit[-1]


def vanishing_group(block: Block) -> list[nn.Parameter]:
    """Return the parameters that switch the branch off: its last convolution, and the norm after it."""
    layers = list(block.branch)
    last = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    return [parameter for layer in layers[last:] for parameter in layer.parameters()]


LOG_SCALE = 0.1
"""Norm, relative to 1, below which the pull of `shrink_branches` on a group stops growing."""


@torch.no_grad()
def shrink_branches(chain: ResidualChain, step: float) -> int:
    """Take one proximal step of ``step * sqrt(size) * log(1 + ||group|| / LOG_SCALE)``, in place.

    Each branch is one group (see `vanishing_group`). The logarithm is the reweighted group lasso (Candes,
    Wakin, Boyd 2008): its pull, ``1 / (LOG_SCALE + norm)``, is weak on branches that carry something and
    strong on those that do not, which a constant pull cannot do without hurting the first. A group whose
    norm is below the threshold becomes exactly zero, so that dropping the block is exact.

    Args:
        chain: Whose branches shrink.
        step: Learning rate times strength of the penalty.

    Returns:
        Number of branches that are exactly zero.
    """
    zero = 0
    for block in chain.blocks:
        group = vanishing_group(block)
        norm = math.sqrt(sum(float(parameter.square().sum()) for parameter in group))
        size = sum(parameter.numel() for parameter in group)
        threshold = step * math.sqrt(size) / (LOG_SCALE + norm)
        scale = max(0.0, 1.0 - threshold / norm) if norm > 0 else 0.0
        for parameter in group:
            parameter.mul_(scale) if scale else parameter.zero_()
        zero += scale == 0.0
    return zero
