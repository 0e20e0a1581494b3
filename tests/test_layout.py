"""Tables of figures on terminals that have no room for them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from resprune.report.layout import FigureTable

NATURAL = 30
"""Columns of 4, 8 and 12 characters, and three gaps of 2 but for the last, which stays."""


def lines(width: int, *, spare: tuple[int, ...] = ()) -> list[str]:
    table = FigureTable(spare=spare)
    for title in ("size", "accuracy", "residualnorm"):
        table.add_column(title, justify="right")
    table.add_row("123", "45.67", "8.9012e-07")
    table.add_row("4", "100.00", "1.2345e-01")
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_table_that_fits_is_as_wide_as_it_likes() -> None:
    assert lines(80)[1] == " 123     45.67    8.9012e-07"
    assert lines(80) == lines(NATURAL)


def test_gaps_go_first_then_spare_columns() -> None:
    assert lines(27, spare=(0,))[1] == " 123    45.67   8.9012e-07"
    assert lines(25, spare=(0,))[1] == "   45.67   8.9012e-07"
    assert lines(13, spare=(0, 1))[:2] == ["residualnorm", "  8.9012e-07"]


@pytest.mark.parametrize("width", [1, 5, 12, 20, 26])
@pytest.mark.parametrize("spare", [(), (0,)])
def test_no_figure_is_ever_cut(width: int, spare: tuple[int, ...]) -> None:
    told = lines(width, spare=spare)
    assert len(told) == 3
    assert told[1].split()[-2:] == ["45.67", "8.9012e-07"]
    assert told[2].split()[-2:] == ["100.00", "1.2345e-01"]
