"""A wish becomes a `PrunePlan`; pure arithmetic on figures that were measured before."""

from __future__ import annotations

from collections.abc import Sequence

from resprune.errors import UsageError
from resprune.records import PrunePlan, Trajectory


def tail_rule(residual_norms_relative: Sequence[float], tol: float) -> int:
    """Return ``M(tol) = min{M : relative residual norm k <= tol for every k >= M}``.

    By the triangle inequality the output of SubResNet-M then differs from the network's by at most
    ``(N - M) * tol``, relative, root mean square.
    """
    depth = len(residual_norms_relative)
    while depth > 0 and residual_norms_relative[depth - 1] <= tol:
        depth -= 1
    return depth


def check_tolerance(tol: float) -> None:
    """Refuse what is no tolerance.

    Raises:
        UsageError: where it is negative or no number.
    """
    if not 0 <= tol < float("inf"):
        raise UsageError(f"the tolerance must be a number >= 0, got {tol}", hint="for example --tol 1e-3")


def select(
    trajectory: Trajectory | None = None,
    *,
    tol: float | None = None,
    depth: int | None = None,
    blocks: int | None = None,
) -> PrunePlan:
    """Return the plan for a tolerance or for a depth.

    Args:
        trajectory: Needed for ``tol``.
        tol: Apply the tail rule with this tolerance; at least 0, no unit.
        depth: Keep the first M blocks; 0 <= M <= N.
        blocks: N, where there is no trajectory.

    Raises:
        UsageError: where not exactly one wish is given, or it is out of range.
    """
    if (tol is None) == (depth is None):
        raise UsageError("give a tolerance or a depth, one of the two", hint="--tol 1e-3, or --depth 9")
    total = trajectory.depth if trajectory is not None else blocks
    if total is None:
        raise UsageError("neither a trajectory nor a number of blocks is given")
    if tol is not None:
        check_tolerance(tol)
        if trajectory is None:
            raise UsageError("a tolerance needs residual norms", hint="give --data, or use --depth")
        rule, depth = f"tail, tol {tol:g}", tail_rule(trajectory.residual_norms_relative, tol)
    else:
        assert depth is not None
        if not 0 <= depth <= total:
            raise UsageError(f"depth {depth} is out of range, the network has the blocks 0..{total - 1}")
        rule = f"tail, depth {depth}"
    return PrunePlan(rule, removed=tuple(range(depth, total)), kept=tuple(range(depth)))
