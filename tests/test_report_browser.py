"""The report in a real browser: no script error, nothing fetched, every point there, the tables sort.

Skipped where no Chromium is installed; RESPRUNE_BROWSER names one that has another name. With
RESPRUNE_SCREENSHOTS=FOLDER the pages are kept as images to be looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy
import pytest
from browser import Page
from commands import run
from PIL import Image, ImageColor
from studies import analysis, bounds, classwise, frontier, write

from resprune.report import plots, reading, vector
from resprune.report.classes import STRONGEST
from resprune.report.palette import DARK, LIGHT

PROGRAM = browser.find()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed (RESPRUNE_BROWSER names one)")
STAGES = ((2, 2, 3), (5,))
CLASSES = 6
FRONTIERS = (9, 6)
VIEWS = {"light": (1200, "light"), "dark": (1200, "dark"), "phone": (375, "light"), "phone-dark": (375, "dark")}
COUNT = "document.querySelectorAll('[id=\"{}\"] use').length"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser.running(PROGRAM, tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def analyses() -> list[dict[str, Any]]:
    """Return two networks with bounds; one has classes and a random control."""
    first, second = (bounds(analysis(stages, seed=seed)) for seed, stages in enumerate(STAGES))
    first["control"] = {"removed": 2, "change_relative": [0.5, 0.75], "agreement": [0.25, 0.5]}
    return [classwise(first, CLASSES), second]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    frontiers = [frontier(blocks, seed=blocks) for blocks in FRONTIERS]
    contents = {"analyses": analyses(), "frontiers": frontiers, "both": [*analyses(), *frontiers]}
    for name, results in contents.items():
        files = [write(folder / f"net{number}.json", content) for number, content in enumerate(results)]
        done = run("report", *files, "--out", folder / f"{name}.html")
        assert done.exit_code == 0, done.output
    return {name: folder / f"{name}.html" for name in contents}


def show(tab: Page, file: Path, view: str) -> None:
    """Open a page and check what holds for every one: its size, its colours, no error, nothing fetched."""
    width, scheme = VIEWS[view]
    tab.open(file, width=width, scheme=scheme)
    kept = os.environ.get("RESPRUNE_SCREENSHOTS")
    if kept:
        tab.screenshot(Path(kept) / f"{file.stem}-{view}.png")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert tab.evaluate("getComputedStyle(document.querySelector('figure svg path')).fill") == paper
    # Every point is inside the screen and is visible; so is every word of every plot.
    for seen in ("figure [id$=-points] use", "figure text"):
        boxes = f"[...document.querySelectorAll('{seen}')].map(e => e.getBoundingClientRect())"
        assert tab.evaluate(f"{boxes}.every(b => b.width > 0 && b.left >= 0 && b.right <= {width})")
    smallest = "[...document.querySelectorAll('figure text')].map(e => e.getBoundingClientRect().height)"
    assert tab.evaluate(f"Math.min(...{smallest})") >= 7
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_of_analyses(tab: Page, pages: dict[str, Path], view: str) -> None:
    show(tab, pages["analyses"], view)
    for index, stages in enumerate(STAGES):
        depth = sum(stages)
        for plot, points in (("accuracy", depth + 1), ("loss", depth + 1), ("residual-norms", depth)):
            assert tab.evaluate(COUNT.format(f"{plot}-{index}-points")) == points
        assert tab.evaluate(COUNT.format(f"parameter-norms-{index}-points")) == depth
        for curve in (0, 1):
            assert tab.evaluate(COUNT.format(f"drop-effects-{index + 1}-{curve}-points")) == depth
    assert tab.evaluate("document.querySelector('#drop-effects-1-control').getBoundingClientRect().height") > 1


@pytest.mark.parametrize("view", VIEWS)
def test_a_page_of_frontiers(tab: Page, pages: dict[str, Path], view: str) -> None:
    show(tab, pages["frontiers"], view)
    for plot in ("macs", "latency"):
        for index, points in enumerate(FRONTIERS):
            for curve in (2 * index, 2 * index + 1):  # right after the cut, after recovery
                assert tab.evaluate(COUNT.format(f"frontier-{plot}-{curve}-points")) == points
    tables = "[...document.querySelectorAll('#frontier table')].map(t => t.tBodies[0].rows.length)"
    assert tab.evaluate(tables) == list(FRONTIERS)


@pytest.mark.parametrize(("view", "colours"), [("light", LIGHT), ("dark", DARK), ("phone-dark", DARK)])
def test_cells_of_a_heat_map_are_as_strong_as_their_accuracy(
    tab: Page, pages: dict[str, Path], tmp_path: Path, view: str, colours: dict[str, str]
) -> None:
    show(tab, pages["analyses"], view)
    tab.screenshot(tmp_path / "page.png")
    seen = Image.open(tmp_path / "page.png").convert("RGB")
    box = "document.querySelector('[id=\"classes-1-cells\"]').getBoundingClientRect().toJSON()"
    place, accuracy = tab.evaluate(box), analyses()[0]["classwise"]["accuracy"]
    width, height = place["width"] / len(accuracy), place["height"] / (CLASSES - 1)
    accent, paper = (ImageColor.getrgb(colours[name]) for name in ("accent", "paper"))
    for k, row in enumerate(accuracy):
        for label, value in enumerate(row[:-1]):
            # Near a corner, where no number is.
            corner = (place["left"] + (k + 0.12) * width, place["top"] + (label + 0.2) * height)
            part = STRONGEST * value
            mixed = [part * above + (1 - part) * below for above, below in zip(accent, paper, strict=True)]
            assert seen.getpixel((int(corner[0]), int(corner[1]))) == pytest.approx(mixed, abs=3)


@pytest.mark.parametrize("name", ["accuracy", "drop-effects", "classes", "frontier-latency"])
def test_a_plot_looks_the_same_in_a_page_as_in_its_file(tab: Page, tmp_path: Path, name: str) -> None:
    """What makes it small is not to be seen."""
    results = [analyses()[0], frontier(9)]
    drawn = plots.plots([reading.result(content, "net") for content in results])
    plot = next(own for own in drawn if own.name == name)
    whole = plot.svg()
    small = vector.inline(plot)
    assert len(small) < 0.7 * len(whole)
    colours = "".join(f"--{key}: {value};" for key, value in LIGHT.items())
    seen = []
    for number, text in enumerate((whole[whole.index("<svg") :], small)):
        file = tmp_path / f"{number}.html"
        look = f"svg {{ {colours} width: 800px; height: auto; font-family: 'DejaVu Sans', sans-serif }}"
        file.write_text(f"<style>{look}</style>{text}", encoding="utf-8")
        tab.open(file, width=900, scheme="light")
        tab.screenshot(tmp_path / f"{number}.png")
        seen.append(numpy.asarray(Image.open(tmp_path / f"{number}.png").convert("L"), dtype=int))
    assert seen[0].shape == seen[1].shape
    assert seen[0].std() > 10
    assert (abs(seen[0] - seen[1]) > 60).mean() < 1e-3


@pytest.mark.parametrize(("what", "columns"), [("blocks", (3, 6, 10)), ("frontier", (1, 3, 7))])
def test_a_table_sorts_both_ways(
    tab: Page, pages: dict[str, Path], what: str, columns: tuple[int, ...]
) -> None:
    show(tab, pages["both"], "light")
    table = f"document.querySelector('#{what} table')"

    def shown(column: int) -> list[float]:
        texts = tab.evaluate(f"[...{table}.tBodies[0].rows].map(r => r.cells[{column}].innerText)")
        return [float(text.split()[0].replace(",", "")) for text in texts]

    assert shown(0) == {"blocks": list(range(7)), "frontier": list(range(FRONTIERS[0], 0, -1))}[what]
    for column in columns:
        for descending in (False, True):
            tab.evaluate(f"{table}.tHead.rows[0].cells[{column}].querySelector('button').click()")
            assert shown(column) == sorted(shown(column), reverse=descending)
    assert tab.evaluate(f"{table}.tHead.rows[0].cells[{columns[-1]}].ariaSort") == "descending"
    assert tab.errors == []


def test_a_script_error_would_be_seen(tab: Page, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text("<script>missing()</script>", encoding="utf-8")
    tab.open(file, width=800, scheme="light")
    tab.evaluate("1")
    assert any("missing is not defined" in error for error in tab.errors)
