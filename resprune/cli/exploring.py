"""``prune --frontier``: all depths of a network, none of them written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resprune.cli import reporting, shell
from resprune.errors import UsageError

if TYPE_CHECKING:
    from resprune.chain import ResidualChain


@dataclass(frozen=True)
class Files:
    """What a frontier is written to, besides the terminal; None for not.

    Attributes:
        csv: Its table.
        report: A page.
        plots: Folder of its plots.
        force: Whether a page and plots may be replaced.
    """

    csv: Path | None
    report: Path | None
    plots: Path | None
    force: bool


def check(files: Files, *, wanted: bool, others: Mapping[str, object]) -> None:
    """Refuse what does not go together with a frontier, or without one.

    Args:
        files: To write.
        wanted: Whether a frontier is.
        others: Options of pruning that say which network to write.

    Raises:
        UsageError, OutputError: names the option, or the file.
    """
    if not wanted:
        for flag in ("csv", "report", "plots"):
            if getattr(files, flag) is not None:
                raise UsageError(f"--{flag} is of a frontier, which was not asked for", hint="add --frontier")
        return
    reporting.check(files.report, files.plots, force=files.force)
    reporting.check_files((files.csv, ".csv"))
    for flag, value in others.items():
        if value:
            raise UsageError(
                f"--frontier measures all depths and writes no network, so {flag} has nothing to say",
                hint="leave out one of them; --remove takes the blocks that the frontier names",
            )


def run(chain: ResidualChain, data: str | None, *, files: Files, as_json: bool, **options: Any) -> None:
    """Measure the frontier, print it, and write its files."""
    from resprune.exploring import frontier
    from resprune.placing import write_text
    from resprune.report import frontiers, pruning
    from resprune.report.results import prunings

    found = frontier(
        chain,
        data,
        progress=shell.progress,
        on_epoch=lambda row: shell.say(pruning.healed(row)),
        tell=lambda point: shell.say(frontiers.point(point)),
        **options,
    )
    content = prunings.frontier(found) | reporting.made(options["seed"])
    if files.csv is not None:
        write_text(files.csv, found.to_frame().to_csv(index=False))
    named = [(content, reporting.name_of(chain.origin.path))]
    written = reporting.write(named, files.report, files.plots, force=files.force)
    if as_json:
        shell.print_json(content)
    else:
        shell.show(frontiers.table(found))
        reporting.tell([files.csv, *written])
