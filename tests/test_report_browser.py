"""The report in a real browser: no script error, nothing fetched, every point there, the table sorts.

Skipped where no Chromium is installed; RESPRUNE_BROWSER names one that has another name. With
RESPRUNE_SCREENSHOTS=FOLDER the pages are kept as images to be looked at.
"""

from __future__ import annotations

import os
from pathlib import Path

import browser
import pytest
from commands import run
from studies import analysis, bounds, write

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (RESPRUNE_BROWSER names one)")
STAGES = ((2, 2, 3), (5,))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    results = [
        write(tmp_path / f"net{seed}.json", bounds(analysis(stages, seed=seed)))
        for seed, stages in enumerate(STAGES)
    ]
    done = run("report", *results, "--out", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    return tmp_path / "page.html"


@pytest.mark.parametrize(("name", "width", "scheme"), [
    ("light", 1200, "light"), ("dark", 1200, "dark"), ("phone", 375, "light"),
])  # fmt: skip
def test_the_page_works(file: Path, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    assert PROGRAM is not None
    with browser.running(PROGRAM, tmp_path / "profile") as page:
        page.open(file, width=width, scheme=scheme)
        kept = os.environ.get("RESPRUNE_SCREENSHOTS")
        if kept:
            page.screenshot(Path(kept) / f"{name}.png")
        # Nothing is wider than the screen, and what the scheme says is what is drawn.
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        surface = "getComputedStyle(document.querySelector('#accuracy-patch_1 path')).fill"
        assert page.evaluate(surface) == paper
        count = "document.querySelectorAll('[id=\"{}\"] use').length"
        for index, stages in enumerate(STAGES):
            depth = sum(stages)
            for plot, points in (("accuracy", depth + 1), ("loss", depth + 1), ("residual-norms", depth)):
                assert page.evaluate(count.format(f"{plot}-{index}-points")) == points
            for curve in (0, 1):
                assert page.evaluate(count.format(f"drop-effects-{index + 1}-{curve}-points")) == depth
        # A point of every curve is inside its drawing, and is visible.
        box = "document.querySelector('#accuracy-0-points use').getBoundingClientRect().{}"
        assert page.evaluate(box.format("width")) > 0
        assert 0 < page.evaluate(box.format("left")) < width
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith("file:")] == []


def test_the_table_sorts_both_ways(file: Path, tmp_path: Path) -> None:
    assert PROGRAM is not None
    heads = "document.querySelectorAll('table.sortable th')"
    first = (
        "[...document.querySelectorAll('table.sortable')[0].tBodies[0].rows].map(r => r.cells[{}].innerText)"
    )
    with browser.running(PROGRAM, tmp_path / "profile") as page:
        page.open(file, width=1200, scheme="light")
        assert page.evaluate(first.format(0)) == [str(k) for k in range(7)]
        for column in (3, 6, 10):
            page.evaluate(f"{heads}[{column}].querySelector('button').click()")
            values = [float(text.replace(",", "")) for text in page.evaluate(first.format(column))]
            assert values == sorted(values)
            page.evaluate(f"{heads}[{column}].querySelector('button').click()")
            values = [float(text.replace(",", "")) for text in page.evaluate(first.format(column))]
            assert values == sorted(values, reverse=True)
        assert page.evaluate(f"{heads}[10].getAttribute('aria-sort')") == "descending"
        assert page.errors == []


def test_a_script_error_would_be_seen(tmp_path: Path) -> None:
    assert PROGRAM is not None
    file = tmp_path / "bad.html"
    file.write_text("<script>missing()</script>", encoding="utf-8")
    with browser.running(PROGRAM, tmp_path / "profile") as page:
        page.open(file, width=800, scheme="light")
        page.evaluate("1")
        assert any("missing is not defined" in error for error in page.errors)
