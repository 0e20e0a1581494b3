"""A wish becomes a `PrunePlan`; pure arithmetic on figures that were measured before."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Real
from typing import SupportsIndex

from resprune.arguments import check_count
from resprune.errors import UsageError
from resprune.records import Budget, PrunePlan, Removal, Trajectory

MANY_BLOCKS = 40
"""An error names no more blocks than these."""


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
    if isinstance(tol, bool) or not isinstance(tol, Real) or not 0 <= tol < float("inf"):
        raise UsageError(f"the tolerance must be a number >= 0, got {tol}", hint="for example --tol 1e-3")


def check_wishes(budget: Budget | None = None, **wishes: object) -> None:
    """Refuse more than one wish that names blocks, and nothing at all; a budget may stand beside a name.

    Raises:
        UsageError: says what to give.
    """
    named = [name for name, wish in wishes.items() if wish is not None]
    if len(named) > 1:
        told = " and ".join(f"--{name}" for name in named)
        raise UsageError(f"{told} each say which blocks go", hint="give one of them, here or in the --config")
    if not (named or budget):
        raise UsageError(
            "give a tolerance, a depth or blocks to remove, one of them, or a budget",
            hint="--tol 1e-3, or --depth 9, or --remove 3,5,layer3.2, or --target-macs 0.6 --max-drop 0.5",
        )


def select(
    trajectory: Trajectory | None = None,
    *,
    tol: float | None = None,
    depth: int | None = None,
    remove: Sequence[SupportsIndex | str] | None = None,
    blocks: int | None = None,
    paths: Sequence[str] | None = None,
) -> PrunePlan:
    """Return the plan for a tolerance, for a depth, or for blocks that are named.

    Args:
        trajectory: Needed for ``tol``.
        tol: Apply the tail rule with this tolerance; at least 0, no unit.
        depth: Keep the first M blocks; 0 <= M <= N.
        remove: Remove these blocks: indices 0..N-1, as numbers or digits, and paths in the native network.
        blocks: N, where there are neither a trajectory nor paths.
        paths: Of the blocks 0..N-1, as ``[block.path for block in chain.blocks]``, where there is no
            trajectory; paths in ``remove`` need them.

    Raises:
        UsageError: where not exactly one wish is given, it is out of range, or it names a block that is not
            there, or one twice.
    """
    check_wishes(tol=tol, depth=depth, remove=remove)
    rows = [] if trajectory is None else sorted(trajectory.rows, key=lambda row: row.index)
    if trajectory is not None:
        paths = [row.path for row in rows]
    total = len(paths) if paths is not None else blocks
    if total is None:
        raise UsageError("neither a trajectory nor a number of blocks is given")
    if remove is not None:
        return _without(_resolve(remove, paths or (), total), total)
    if tol is not None:
        if trajectory is None:
            check_tolerance(tol)
            raise UsageError("a tolerance needs residual norms", hint="give --data, or use --depth")
        return _tail([row.residual_norm_relative for row in rows], tol)
    check_count("depth", depth, 0)
    assert depth is not None
    if not 0 <= depth <= total:
        raise UsageError(f"depth {depth} is out of range, the network has {total} blocks: 0 to {total} stay")
    kept, gone = f"kept: among the first {depth}", f"removed: not among the first {depth}"
    return _first(f"tail, depth {depth}", depth, (kept,) * depth + (gone,) * (total - depth))


def surgical(
    removals: Sequence[Removal], blocks: int, rule: str, stays: str = "the wish was met without it"
) -> PrunePlan:
    """Return the plan that removes blocks in a measured order.

    Args:
        removals: As `resprune.sensitivity.order_removals` returns them.
        blocks: N.
        rule: The wish in words.
        stays: Why blocks stay, in words.
    """
    reasons = [f"kept: {stays}" if removals else "kept"] * blocks
    for turn, removal in enumerate(removals, start=1):
        reasons[removal.index] = (
            f"removed as number {turn}: in its trial the output diverged by {removal.divergence:.3g} nats"
        )
    removed = tuple(sorted(removal.index for removal in removals))
    kept = tuple(index for index in range(blocks) if index not in removed)
    divergence = removals[-1].divergence if removals else 0.0
    order = tuple(removal.index for removal in removals)
    return PrunePlan(rule, removed, kept, tuple(reasons), divergence, order=order)


def _tail(norms: Sequence[float], tol: float) -> PrunePlan:
    """Return the tail rule's plan. It asks for the last residual above the tolerance, whatever is before it."""
    check_tolerance(tol)
    depth = tail_rule(norms, tol)
    reasons: list[str] = []
    if depth:
        above = f"residual is {norms[depth - 1]:.3g} of the output, above {tol:g}"
        reasons = [f"kept: before block {depth - 1}, whose {above}"] * (depth - 1) + [f"kept: its {above}"]
    if depth < len(norms):
        bound = f"at most {tol:g} of the output (largest {max(norms[depth:]):.2g})"
        reasons += [f"removed: every residual from block {depth} on is {bound}"] * (len(norms) - depth)
    return _first(f"tail, tol {tol:g}", depth, tuple(reasons))


def _first(rule: str, depth: int, reasons: tuple[str, ...]) -> PrunePlan:
    return PrunePlan(rule, tuple(range(depth, len(reasons))), tuple(range(depth)), reasons)


def _without(removed: tuple[int, ...], total: int) -> PrunePlan:
    reasons = tuple(
        "removed: named by --remove" if index in removed else "kept: not named by --remove"
        for index in range(total)
    )
    kept = tuple(index for index in range(total) if index not in removed)
    return PrunePlan(f"remove {', '.join(map(str, removed)) or 'nothing'}", removed, kept, reasons)


def _resolve(remove: Sequence[SupportsIndex | str], paths: Sequence[str], total: int) -> tuple[int, ...]:
    """Return the indices of blocks that are named, ascending.

    Raises:
        UsageError: see `select`.
    """
    there, found = _what_there_is(paths, total), dict[int, SupportsIndex | str]()
    for name in (wish.strip() if isinstance(wish, str) else wish for wish in remove):
        index = _index(name, paths, there)
        if not 0 <= index < total:
            raise UsageError(f"block {name} is out of range, {there}")
        if index in found:
            also = "" if str(found[index]) == str(name) else f" ({found[index]} and {name})"
            raise UsageError(f"block {index} is named twice{also}", hint="name every block once")
        found[index] = name
    return tuple(sorted(found))


def _index(name: SupportsIndex | str, paths: Sequence[str], there: str) -> int:
    """Return the index that a name stands for, which may be out of range."""
    if not isinstance(name, str):
        return operator.index(name)  # of numpy's and torch's integers too
    digits = name.removeprefix("-")
    number = int(name) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None
    if name in paths:
        index = list(paths).index(name)
        if number not in (None, index):
            raise UsageError(
                f"{name} is the path of block {index} and the index of another", hint="use indices"
            )
        return index
    if number is None:
        raise UsageError(f"there is no block {name!r}, {there}", hint="name every block, with commas between")
    return number


def _what_there_is(paths: Sequence[str], total: int) -> str:
    if not total:
        return "the network has no blocks"
    text = f"the network has the blocks 0..{total - 1}"
    if not paths:
        return text
    names = paths if total <= MANY_BLOCKS else (*paths[: MANY_BLOCKS - 1], "...", paths[-1])
    return f"{text}: {', '.join(names)}"
