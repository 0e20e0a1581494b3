"""``prune --frontier``: all depths of a network, none of them written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resprune.cli import reporting, shell
from resprune.errors import UsageError

if TYPE_CHECKING:
    from resprune.chain import ResidualChain


def check(*, wanted: bool, csv: Path | None, others: Mapping[str, object]) -> None:
    """Refuse what does not go together with a frontier, or without one.

    Args:
        wanted: Whether a frontier is.
        csv: File for its table.
        others: Options of pruning that say which network to write.

    Raises:
        UsageError: names the option.
    """
    if not wanted:
        if csv is not None:
            raise UsageError("--csv is of a frontier, which was not asked for", hint="add --frontier")
        return
    for flag, value in others.items():
        if value:
            raise UsageError(
                f"--frontier measures all depths and writes no network, so {flag} has nothing to say",
                hint=f"leave out one of them; look at the frontier first, then prune with {flag}",
            )


def run(chain: ResidualChain, data: str | None, *, csv: Path | None, as_json: bool, **options: Any) -> None:
    """Measure the frontier, print it, and write its table."""
    from resprune.exploring import frontier
    from resprune.exporting.folder import write_text
    from resprune.report import frontiers, pruning, results

    found = frontier(
        chain,
        data,
        progress=shell.progress,
        on_epoch=lambda row: shell.say(pruning.healed(row)),
        tell=lambda point: shell.say(frontiers.point(point)),
        **options,
    )
    if csv is not None:
        write_text(csv, found.to_frame().to_csv(index=False))
    if as_json:
        shell.print_json(results.frontier(found) | reporting.made(options["seed"]))
    else:
        shell.show(frontiers.table(found))
