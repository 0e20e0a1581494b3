"""What ``resprune families`` prints: the networks that are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from resprune.records import Variants
from resprune.report.results import parts


def result(groups: Sequence[Variants]) -> dict[str, Any]:
    """Return what ``resprune families --json`` prints."""
    found = [
        {
            "networks": group.group,
            "names": list(group.names),
            "loads_in": list(_libraries(group)),
            "refused": group.refused or None,
        }
        for group in groups
    ]
    return parts.opening("families") | {"families": found}


def table(groups: Sequence[Variants]) -> RenderableType:
    """Return it as a table, with the number of names."""
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    grid.add_column("networks")
    grid.add_column("names", justify="right")
    grid.add_column("pruned loads in")
    for group in groups:
        grid.add_row(group.group, str(len(group.names) or ""), _told(group))
    return grid


def markdown(groups: Sequence[Variants]) -> str:
    """Return the same as a Markdown table with every name."""
    lines = ["| networks | names | a pruned one loads in |", "|---|---|---|"]
    lines += [f"| {group.group} | {' '.join(group.names)} | {_told(group)} |" for group in groups]
    return "\n".join(lines)


def _libraries(group: Variants) -> tuple[str, ...]:
    return () if group.refused else (*group.loads_in, "resprune")


def _told(group: Variants) -> str:
    return f"refused: {group.refused}" if group.refused else ", ".join(_libraries(group))
