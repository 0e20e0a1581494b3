"""The report: what is on the page, what it may not hold, who can read it, and what is refused."""

from __future__ import annotations

import builtins
import copy
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from commands import refusal, run
from studies import analysis, bounds, classwise, frontier, write

import resprune
from resprune.errors import ResultError
from resprune.records import Study
from resprune.report import page, plots, reading, tradeoff, vector

HOSTILE = "</title><script>alert(1)</script> $x$ & id=\"q\" url(#p) 1.23456 'p'"
IMAGE = "data:image/png;base64,"
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Tree(HTMLParser):
    """What a page holds: elements with their attributes, text by element, and whether all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.points: dict[str, int] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id") or ""))
        if tag == "use":
            for _, name in self.open:
                self.points[name] = self.points.get(name, 0) + 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1][0] if self.open else "", data))

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]

    def under(self, tag: str) -> list[str]:
        return [text for owner, text in self.texts if owner == tag]


def study(content: dict[str, Any], name: str = "net") -> Study:
    return reading.study(content, name)


@pytest.fixture(scope="module")
def two() -> Tree:
    """Two networks of other depths and stages, one with a control and bounds."""
    first = bounds(analysis((2, 2, 3), seed=1))
    first["control"] = {"removed": 2, "change_relative": [0.5, 0.75], "agreement": [0.25, 0.5]}
    first["made"] = {"command": "resprune analyze x", "seed": 7, "versions": {"torch": "2.x"}}
    return Tree(page.render([study(first, "one"), study(analysis((5,), seed=2), "other")]))


def test_every_curve_has_every_point(two: Tree) -> None:
    for index, depth in enumerate((7, 5)):
        for name, points in (("accuracy", 1), ("loss", 1), ("residual-norms", 0), ("parameter-norms", 0)):
            assert two.points[f"{name}-{index}-points"] == depth + points
        for curve in (0, 1):
            assert two.points[f"drop-effects-{index + 1}-{curve}-points"] == depth
    assert "drop-effects-1-control" in two.ids()
    assert "drop-effects-2-control" not in two.ids()


def test_a_page_is_whole_and_no_id_is_there_twice(two: Tree) -> None:
    assert two.open == []
    assert len(two.ids()) == len(set(two.ids()))
    known = set(two.ids())
    for tag, attributes in two.elements:
        if tag == "use":
            assert (attributes["href"] or "").removeprefix("#") in known
    assert {"summary", "plots", "network", "bounds", "blocks", "made"} <= known


def test_a_page_needs_nothing_else() -> None:
    text = page.render([study(classwise(analysis(), 6))])
    assert "http:" not in text
    assert "https:" not in text
    assert text.count(IMAGE) == 1
    assert "//" not in re.sub(rf"<script>.*</script>|{IMAGE}[^\"]*", "", text, flags=re.DOTALL)
    tree = Tree(text)
    for tag, attributes in tree.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not attributes.keys() & {"src", "srcset", "action", "data"}
        assert (attributes.get("href") or "#").startswith(("#", IMAGE))
    urls = re.findall(r"url\(([^)]*)\)", text)
    assert all(url.startswith("#") for url in urls)
    assert "@import" not in text


def test_what_the_page_says(two: Tree) -> None:
    text = " ".join(part for _, part in two.texts)
    for said in (
        "Suggestion: keep 6 of 7 blocks",
        "Suggestion: keep 4 of 5 blocks",
        "Control: 2 blocks removed at random, 2 times, change the output by 0.5 to 0.75",
        "resprune analyze x",
        "torch 2.x",
        "100 images of images (validation)",
        "accuracy / %",
        "cross-entropy / nats",
        "residual norm / output norm (no unit)",
        "1. one",
        "2. other",
        "one, with sub.pth",
    ):
        assert said in text
    spans = [attributes.get("class") for tag, attributes in two.elements if tag == "span"]
    assert spans.count("kept") == 6 + 4
    assert spans.count("removed") == 1 + 1
    assert two.under("dd")[:2] == ["net1.pth", "0" * 64]
    cells = two.under("td")
    assert "layer3.2" in cells


def test_without_labels_there_are_no_plots_of_accuracy() -> None:
    tree = Tree(page.render([study(analysis(labels=False))]))
    assert "residual-norms-0-points" in tree.points
    assert "accuracy-0-points" not in tree.points
    assert any("no labels" in text for text in tree.under("p"))


@pytest.mark.parametrize("stages", [(), (1,), (1, 0, 2)])
def test_small_networks(stages: tuple[int, ...]) -> None:
    content = analysis(stages)
    tree = Tree(page.render([study(content)]))
    assert tree.points["accuracy-0-points"] == sum(stages) + 1


def test_everything_from_files_is_escaped() -> None:
    content = bounds(analysis())
    content["checkpoint"]["path"] = content["checkpoint"]["architecture"] = HOSTILE
    content["data"]["spec"] = content["data"]["split"] = HOSTILE
    content["blocks"][0]["path"] = HOSTILE
    content["bounds"]["sub"]["path"] = content["version"] = HOSTILE
    content["made"] = {"command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    text = page.render([study(content, HOSTILE), study(content, HOSTILE + "2")])
    assert "<script>alert" not in text
    tree = Tree(text)
    assert tree.open == []
    assert [tag for tag, _ in tree.elements].count("script") == 1
    assert any(HOSTILE in part for part in tree.under("text"))
    assert any(HOSTILE in part for part in tree.under("dd"))


def test_a_deep_network_with_ten_curves_is_small() -> None:
    """Ten analyses of 54 blocks, with a hundred classes each whose figures are noise, and ten frontiers."""
    deep = [classwise(analysis((18, 18, 18), seed=seed), 101, seed=seed) for seed in range(10)]
    shown = [study(content, f"run {seed}") for seed, content in enumerate(deep)]
    text = page.render(
        [*shown, *(tradeoff.frontier(frontier(54, seed=seed), f"frontier {seed}") for seed in range(10))]
    )
    assert len(text.encode()) < 1_500_000
    tree = Tree(text)
    assert all(tree.points[f"loss-{index}-points"] == 55 for index in range(10))
    assert all(tree.points[f"frontier-macs-{index}-points"] == 54 for index in range(20))
    assert text.count(IMAGE) == 10


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_meets_wcag_aa_in_both_schemes() -> None:
    text = page.render([study(analysis())])
    schemes = [dict(re.findall(r"--(\w+): (#\w{6});", root)) for root in re.findall(r":root \{([^}]*)\}", text)]
    assert len(schemes) == 2
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for colours in schemes:
        for words, ground in (
            ("ink", "paper"),
            ("ink", "panel"),
            ("muted", "paper"),
            ("muted", "panel"),
            ("paper", "accent"),
        ):
            assert contrast(colours[words], colours[ground]) >= 4.5
        curves = [name for name in colours if name.startswith("curve")]
        assert len(curves) == 10
        assert all(contrast(colours[name], colours["paper"]) >= 3 for name in [*curves, "accent"])
    # All colours of the page and its plots are these variables.
    body = text[text.index("</style>") :]
    assert re.findall(r"#[0-9a-f]{6}\b(?=[;\"])", body) == []


def test_plots_are_files_of_their_own(tmp_path: Path) -> None:
    source = write(tmp_path / "a.json", analysis())
    done = run("report", source, "--plots", tmp_path / "plots")
    assert done.exit_code == 0, done.output
    names = ["accuracy", "drop-effects", "loss", "parameter-norms", "residual-norms"]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    ]
    assert (tmp_path / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "var(--" not in (tmp_path / "plots" / "loss.svg").read_text()
    again = run("report", source, "--plots", tmp_path / "again")
    assert again.exit_code == 0
    for file in (tmp_path / "plots").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_curves_differ_without_colour() -> None:
    from resprune.report.palette import DASHES, MARKERS

    looks = [(MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]) for i in range(55)]
    assert len(set(looks)) == len(looks)
    drawn = vector.inline(plots.plots([study(analysis(), "a"), study(analysis(seed=1), "b")])[0])
    shapes = [
        re.search(rf'id="accuracy-{i}-points">.*?<path id="[^"]*" d="([^"]*)"', drawn, re.DOTALL)
        for i in (0, 1)
    ]
    first, second = (shape.group(1) for shape in shapes if shape)
    assert first != second
    assert drawn.count("stroke-dasharray") > 0


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "schema": (lambda c: c.update(schema="resprune/prune/1"), "'resprune/prune/1' instead of"),
    "no schema": (lambda c: c.pop("schema"), "schema: is missing"),
    "no blocks": (lambda c: c.pop("blocks"), "blocks: is missing"),
    "blocks of another kind": (lambda c: c.update(blocks={}), "blocks: a list is expected, got an object"),
    "block of another kind": (lambda c: c["blocks"].insert(0, 3), "blocks[0]: no JSON object but 3"),
    "missing key": (lambda c: c["blocks"][3].pop("residual_norm"), "blocks[3].residual_norm: is missing"),
    "text": (lambda c: c["blocks"][1].update(exit_loss="low"), "blocks[1].exit_loss"),
    "true": (lambda c: c["blocks"][1].update(macs=True), "blocks[1].macs"),
    "negative": (lambda c: c["blocks"][1].update(parameter_norm=-1), "at least 0 is expected, got -1"),
    "percent": (lambda c: c["blocks"][1].update(exit_accuracy=93.1), "a fraction from 0 to 1 is expected"),
    "null": (lambda c: c["blocks"][1].update(residual_norm=None), "got null"),
    "NaN": (lambda c: c["final"].update(loss=float("nan")), "final.loss"),
    "infinite": (lambda c: c["blocks"][1].update(residual_norm=float("inf")), "blocks[1].residual_norm"),
    "huge": (lambda c: c["blocks"][1].update(macs=10**400), "blocks[1].macs"),
    "order": (lambda c: c["blocks"].reverse(), "blocks[0].index: 6 instead of 0"),
    "stages": (lambda c: c["blocks"][6].update(stage=0), "the stages are not in order"),
    "depth": (lambda c: c.update(suggested_depth=8), "suggested_depth: 8 of 7 blocks"),
    "count": (lambda c: c["checkpoint"].update(blocks=9), "checkpoint.blocks: 9, and 7 are listed"),
    "recipe": (lambda c: c["data"].update(preprocessing={"source": "x"}), "data.preprocessing: no recipe"),
    "control": (lambda c: c.update(control={"removed": 1, "change_relative": []}), "control.change_relative"),
    "bounds": (lambda c: c.update(bounds={"sub": {}}), "bounds"),
    "made": (lambda c: c.update(made=[]), "made: no JSON object but a list"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_results_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    change, said = CHANGES[name]
    content = copy.deepcopy(analysis())
    change(content)
    path = write(tmp_path / "bad.json", content)
    with pytest.raises(ResultError, match=re.escape(said)) as caught:
        reading.read(path, "bad")
    assert caught.value.where == str(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"9" * 5000, "is no JSON"),
        (b"[]", "no JSON object but a list"),
        (b"null", "no JSON object but null"),
        (None, "is a folder"),
    ],
)
def test_files_that_are_no_results(data: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.mkdir() if data is None else path.write_bytes(data)
    line = refusal(3, "report", path, "--out", tmp_path / "page.html")
    assert said in line
    assert str(path) in line
    assert "there is no such file" in refusal(3, "report", tmp_path / "none", "--out", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.json", analysis()), tmp_path / "new" / "page.html"
    words = ("report", source, "--out", out, "--plots", tmp_path / "plots")
    assert run(*words).exit_code == 0
    before = out.read_bytes()
    assert "--force" in refusal(3, *words)
    assert "--force" in refusal(3, "report", source, "--plots", tmp_path / "plots")
    write(source, analysis(seed=1))
    assert run(*words, "--force").exit_code == 0
    assert out.read_bytes() != before
    # What is no page and no folder of plots stays, whatever was asked for.
    assert "is no HTML page" in refusal(3, "report", source, "--out", source, "--force")
    assert "is a folder" in refusal(3, "report", source, "--out", tmp_path, "--force")
    assert "other things" in refusal(3, "report", source, "--plots", tmp_path, "--force")
    assert "is no folder" in refusal(3, "report", source, "--plots", source, "--force")
    assert "nothing to write" in refusal(2, "report", source)
    assert "cannot be written" in refusal(3, "report", source, "--out", source / "page.html")
    assert not list(tmp_path.rglob("*.draft"))


def test_a_bad_file_among_good_ones_leaves_no_page(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.json", analysis()), write(tmp_path / "b.json", {})
    assert "b.json" in refusal(
        3, "report", good, bad, "--out", tmp_path / "p.html", "--plots", tmp_path / "plots"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json"]


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_extra_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, real = write(tmp_path / "a.json", analysis()), builtins.__import__

    def without(name: str, *rest: Any, **others: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **others)

    monkeypatch.setattr(builtins, "__import__", without)
    line = refusal(2, "report", source, "--out", tmp_path / "page.html")
    assert package in line
    assert "pip install 'resprune[report]'" in line
    assert package in refusal(2, "analyze", "demo", "--report", tmp_path / "page.html")


def test_names_of_files_are_told_apart(tmp_path: Path) -> None:
    assert reading.names_of([Path("x/a.json"), Path("b.json")]) == ["a", "b"]
    assert reading.names_of([Path("x/a.json"), Path("y/a.json")]) == ["x/a", "y/a"]
    assert reading.names_of([Path("x/a.json"), Path("x/a.json")]) == ["1 x/a", "2 x/a"]


def test_analyze_writes_the_same_page_as_report(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "report.html"
    words = ("analyze", cifar_file, "--data", image_folder(), "--json", "--seed", "3")
    done = run(*words, "--report", out, "--plots", tmp_path / "plots")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["made"]["seed"] == 3
    assert found["made"]["versions"].keys() >= {"python", "torch"}
    direct = Tree(out.read_text(encoding="utf-8"))
    assert direct.points["accuracy-0-points"] == 9
    saved = write(tmp_path / "resnet.json", found)
    assert run("report", saved, "--out", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_bytes() == out.read_bytes()
    assert "exists already" in refusal(3, *words, "--report", out)
    assert "--force" in refusal(2, *words, "--force")


def test_plots_from_python_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = study(analysis(), "a").analysis, study(analysis(seed=1), "b").analysis
    drawn = resprune.draw(one)
    assert list(drawn) == ["accuracy", "loss", "residual-norms", "parameter-norms", "drop-effects"]
    assert drawn["loss"].svg() == plots.plots([study(analysis(), "")])[1].svg()
    assert drawn["loss"].png().startswith(b"\x89PNG")
    assert len(repr(drawn["loss"])) < 200
    both = resprune.draw({"before": one, "after": other})
    assert both["accuracy"].curves == ("1. before", "2. after")
    assert {"drop-effects-1", "drop-effects-2"} < both.keys()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(resprune.ResPruneError, match="reports and plots need matplotlib"):
        resprune.draw(one)
