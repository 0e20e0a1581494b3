"""What the options of ``prune`` ask for, and what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from resprune.cli import idle
from resprune.errors import UsageError
from resprune.records import Method, Recipe

if TYPE_CHECKING:
    from resprune.chain import ResidualChain


def names(remove: str | None) -> list[str] | None:
    """Return the blocks that are named; an empty text names none."""
    return None if remove is None else remove.split(",") if remove.strip() else []


def method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UsageError: where there is none of it.
    """
    if name not in get_args(Method):
        raise UsageError(f"no method {name!r}", hint=f"choose from {', '.join(get_args(Method))}")
    return name  # pyright: ignore[reportReturnType]


def check_out(out: Path | None, force: bool) -> None:
    """Refuse to compute what could not be written."""
    from resprune.exporting.folder import refuse_existing

    if out is None:
        raise UsageError("no output folder given", hint="add --out DIR, or --dry-run to see the plan only")
    refuse_existing(out, force)


def refuse_idle(
    *, frontier: bool, named: bool, surgical: bool, timed: bool, limited: bool, heals: bool, controlled: bool
) -> None:
    """Refuse options that were typed and would do nothing.

    Args:
        frontier: Whether all depths are measured.
        named: Whether the blocks that go, or a tolerance, are named.
        surgical: Whether blocks may go from anywhere.
        timed: Whether a speedup is wished for.
        limited: Whether the accuracy that is lost is.
        heals: Whether there is a healing.
        controlled: Whether there are controls.
    """
    written = "is of a network that is written, and --frontier writes none"
    rivals = "is of blocks that a budget chooses, and they are named"
    if not heals:
        rivals = "is of a healing, and there is none"
    elif limited:
        rivals = "is of budgets without --max-drop, with which every plan is healed in full"
    elif not surgical and not named:
        rivals = "is of --method surgical: others have no block to exchange"
    idle.refuse(
        {
            "test_split": (frontier, written),
            "heal_rounds": (frontier, written),
            "heal_rivals": (
                frontier or named or limited or not heals or not surgical,
                written if frontier else rivals,
            ),
            "control_seeds": (frontier or not controlled, written if frontier else "is of --control"),
            "method": (named, "says which blocks may go for a budget, and they are named"),
            "latency_batch": (not frontier and not timed, "is of --speedup, and of --frontier"),
        }
    )


def check_controls(
    kinds: Sequence[str], chain: ResidualChain, data: str | None, *, heals: bool, images: bool, **reading: Any
) -> None:
    """Refuse controls that cannot be made or measured, rather than after a search for blocks.

    Args:
        kinds: Of controls.
        chain: The original.
        data: Images of the figures.
        heals: Whether there is a healing.
        images: Whether there are images.
        reading: How the images are read.
    """
    from resprune import controls, pipeline
    from resprune.data import TEST_FIRST

    controls.check_controls(kinds, chain, heals=heals, images=images)
    if kinds:
        batches = pipeline.batches_for(chain, data, order=TEST_FIRST, **reading)
        controls.check_labels(kinds, None, batches)


def check_reading(
    images: bool, recover: bool | None, heal: Recipe | None, split: str | None, *, chooses: bool
) -> None:
    """Refuse options that say how images are read where none are."""
    if not chooses and heal is None and not (images and recover is not False):
        if split is not None:
            raise UsageError(
                "--split names images to choose a plan, to recover or to heal on, and nothing here reads any",
                hint="use --test-split for the figures",
            )
        idle.refuse({"samples": (True, "is of images to choose a plan or to recover on, and none are read")})
    for wanted, name in ((recover, "--recover"), (heal, "--heal")):
        if wanted and not images:
            raise UsageError(f"{name} needs images", hint="name some with --data")
    if not images:
        nothing = (True, "is of images, and none are named")
        idle.refuse({"test_split": nothing, "batch_size": nothing})
