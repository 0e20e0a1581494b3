"""The way from a network and its SubResNet to the paper's bounds.

chain, sub = load("tuned"), load("sub")
bound(chain, sub, analyze(chain, "cifar10/"), "cifar10/")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resprune import checkpoint, configs, trajectory
from resprune.bounds import bounds as terms
from resprune.bounds import check_sub, check_weights, exit_losses
from resprune.chain import ResidualChain
from resprune.data import VALIDATION_FIRST
from resprune.memory import pass_over
from resprune.reading import Data, Progress, batches_for, silent
from resprune.records import RECIPES, Analysis, Bounds


def bound(
    chain: ResidualChain,
    sub: ResidualChain,
    analysis: Analysis,
    data: Data | None = None,
    *,
    gamma: float | None = None,
    branch_decay: float | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Bounds:
    """Return the paper's bounds 1 and 2 with a SubResNet that was trained by itself.

    Args:
        chain: The network.
        sub: The SubResNet.
        analysis: Of the network.
        data: As in `analyze`; the SubResNet sees the same images.
        gamma: Weight of the exits' losses; by default that of the run, where the chain is a fine-tuned folder,
            else the paper's.
        branch_decay: Lambda, likewise.
        progress: Shown the images done.
        options: As in `analyze`.

    Raises:
        ArchitectureError: where the one is no SubResNet of the other.
        UsageError: where gamma or lambda is out of range.
        DataError: where there are no labels.
    """
    weights = check(chain, sub, gamma=gamma, branch_decay=branch_decay)
    exit_losses(analysis.trajectory)
    data = checkpoint.DEMO if data is None and chain.origin.path == checkpoint.DEMO else data
    options.setdefault("order", VALIDATION_FIRST)
    batches = batches_for(sub, data, **options)
    measured = pass_over(
        batches,
        lambda images, on_batch: trajectory.measure(sub, images, drops=False, on_batch=on_batch),
        progress,
        "SubResNet",
    )
    return terms(analysis.trajectory, measured, gamma=weights[0], branch_decay=weights[1])


def check(
    chain: ResidualChain, sub: ResidualChain, *, gamma: float | None = None, branch_decay: float | None = None
) -> tuple[float, float]:
    """Check, before anything is measured, what `bound` needs; returns gamma and lambda.

    Raises:
        ArchitectureError, UsageError: see `bound`.
    """
    weights = stage_weights(chain, gamma=gamma, branch_decay=branch_decay)
    check_weights(*weights)
    check_sub(chain, sub)
    return weights


def stage_weights(
    chain: ResidualChain, *, gamma: float | None = None, branch_decay: float | None = None
) -> tuple[float, float]:
    """Return gamma and lambda: those given, else those of the chain's own run, else the paper's."""
    known = None if chain.origin.path == checkpoint.DEMO else configs.stage_weights(Path(chain.origin.path))
    paper = RECIPES["paper"]
    own = (paper.gamma, paper.branch_decay) if known is None else known
    return own[0] if gamma is None else gamma, own[1] if branch_decay is None else branch_decay
