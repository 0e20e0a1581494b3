"""Frontiers in reports: alone, several, beside analyses, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from commands import refusal, run
from matplotlib.collections import LineCollection
from studies import analysis, frontier, write
from test_report import HOSTILE, Tree

from resprune.errors import ResultError
from resprune.report import drawing, plots, reading, tradeoff
from resprune.report.palette import LIGHT


def page_of(tmp_path: Path, **files: Any) -> Tree:
    paths = [write(tmp_path / f"{name}.json", content) for name, content in files.items()]
    done = run("report", *paths, "--out", tmp_path / "page.html", "--force")
    assert done.exit_code == 0, done.output
    return Tree((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_a_frontier_alone(tmp_path: Path) -> None:
    tree = page_of(tmp_path, net=frontier(5))
    assert tree.open == []
    assert len(tree.ids()) == len(set(tree.ids()))
    for name in ("frontier-macs", "frontier-latency"):
        assert [tree.points[f"{name}-{curve}-points"] for curve in (0, 1)] == [5, 5]
    assert {"frontier", "made"} <= set(tree.ids())
    assert not {"summary", "plots", "network", "classes", "blocks"} & set(tree.ids())
    text = " ".join(part for _, part in tree.texts)
    for said in (
        "MACs an image / 10\u2076",
        "latency / ms (median; bar: middle half)",
        "accuracy / %",
        "right after the cut",
        "after recovery",
        "5 networks",
        "3, 4",
        "1-4",
        "2.500 (0.125)",
        "100 images of images (validation)",
    ):
        assert said in text


def test_frontiers_beside_analyses(tmp_path: Path) -> None:
    tree = page_of(tmp_path, one=frontier(5), net=analysis(), other=frontier(3, seed=1, latency=False))
    assert [tree.points[f"frontier-macs-{curve}-points"] for curve in range(4)] == [5, 5, 3, 3]
    assert tree.points["accuracy-0-points"] == 8
    assert {"frontier", "summary", "blocks"} <= set(tree.ids())
    assert "2. other, after recovery" in " ".join(part for _, part in tree.texts)


def test_what_was_not_measured_is_not_drawn() -> None:
    def titles(**options: bool) -> list[str]:
        return [plot.title for plot in plots.plots([tradeoff.frontier(frontier(**options), "net")])]

    assert titles() == ["Accuracy against MACs", "Accuracy against latency"]
    assert titles(latency=False) == ["Accuracy against MACs"]
    assert titles(labels=False) == ["Divergence against MACs", "Divergence against latency"]


def test_bars_of_latency_are_the_middle_half() -> None:
    def bars(content: dict[str, Any]) -> Any:
        plot = plots.plots([tradeoff.frontier(content, "net")])[1]
        with drawing.figure_of(plot, LIGHT) as figure:
            (lines,) = figure.axes[0].collections
            assert isinstance(lines, LineCollection)
            ends = [segment[:, 0] for segment in lines.get_segments()]
        return [(float(first), float(last)) for first, last in ends]

    assert bars(frontier(2)) == pytest.approx(numpy.array([(2.975, 3.1), (2.35, 2.475)]))
    without = frontier(2)
    for point, width in zip(without["frontier"], (1.0, 8.0), strict=True):
        point["latency_ms"] = {"median": 3.0, "iqr": width}
    assert bars(without) == pytest.approx(numpy.array([(2.5, 3.5), (0.0, 7.0)]))


def test_the_program_s_own_frontier(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("prune", cifar_file, "--data", image_folder(each=4), "--frontier", "--json")
    assert done.exit_code == 0, done.output
    (tmp_path / "own.json").write_text(done.stdout, encoding="utf-8")
    tree = Tree(page_text(tmp_path))
    assert [tree.points[f"frontier-{key}-1-points"] for key in ("macs", "latency")] == [9, 9]
    assert any("prune" in part for part in tree.under("dd"))


def page_text(tmp_path: Path) -> str:
    assert run("report", tmp_path / "own.json", "--out", tmp_path / "own.html").exit_code == 0
    return (tmp_path / "own.html").read_text(encoding="utf-8")


def test_names_are_text(tmp_path: Path) -> None:
    content = frontier()
    content["checkpoint"]["path"] = content["version"] = content["data"]["spec"] = HOSTILE
    tree = page_of(tmp_path, net=content)
    assert [tag for tag, _ in tree.elements].count("script") == 1
    assert any(HOSTILE in part for part in tree.under("dd"))


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "none": (lambda c: c.update(frontier=[]), "frontier: the first entry is not the original"),
    "no original": (lambda c: c["frontier"].pop(0), "frontier: the first entry is not the original"),
    "no list": (lambda c: c.update(frontier={}), "frontier: a list is expected"),
    "macs": (lambda c: c["frontier"][1].update(macs=-1), r"frontier\[1\].macs"),
    "removed": (lambda c: c["frontier"][1].update(removed=["a"]), r"frontier\[1\].removed"),
    "percent": (lambda c: c["frontier"][1]["raw"].update(accuracy=93), r"frontier\[1\].raw.accuracy"),
    "latency": (lambda c: c["frontier"][1]["latency_ms"].pop("iqr"), r"frontier\[1\].latency_ms.iqr"),
    "quartiles": (
        lambda c: c["frontier"][1]["latency_ms"].update(quartiles=[9, 10]),
        r"frontier\[1\].latency_ms.quartiles: no bounds of",
    ),
    "checkpoint": (lambda c: c.pop("checkpoint"), "checkpoint: is missing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_results_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    content = copy.deepcopy(frontier())
    change(content)
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(ResultError, match=said):
        reading.read(path, "bad")
    assert "prune --frontier" in refusal(3, "report", path, "--out", tmp_path / "page.html")
