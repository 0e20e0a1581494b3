"""Tables of figures on a terminal of any width: no digit is ever cut off."""

from __future__ import annotations

import copy
from dataclasses import replace

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table


class FigureTable(Table):
    """A table without lines. Where it has no room, gaps shrink, then columns go, then its lines run over.

    Args:
        gap: Characters between two columns.
        spare: Indices of columns that say little that others do not, the first to go first.
    """

    def __init__(self, *, gap: int = 2, spare: tuple[int, ...] = ()) -> None:
        super().__init__(box=None, padding=(0, gap, 0, 0), header_style="bold", pad_edge=False)
        self._spare = spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fitting = copy.copy(self)
        if self._natural(console, options) > options.max_width:
            fitting.padding = (0, 1, 0, 0)
        for count in range(len(self._spare) + 1):
            gone = self._spare[:count]
            kept = [column for index, column in enumerate(self.columns) if index not in gone]
            fitting.columns = [replace(column, _index=index) for index, column in enumerate(kept)]
            if fitting._natural(console, options) <= options.max_width:
                break
        else:
            fitting.width = fitting._natural(console, options)
        yield from super(FigureTable, fitting).__rich_console__(console, options)

    def _natural(self, console: Console, options: ConsoleOptions) -> int:
        return self.__rich_measure__(console, options.update(max_width=10_000)).maximum
