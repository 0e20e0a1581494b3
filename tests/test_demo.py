"""The README's main command on the network that the package ships, and the paper's effect in it."""

from __future__ import annotations

import json
import re
import shlex
from io import StringIO
from pathlib import Path

import pytest
from documents import snippets
from rich.console import Console
from test_cli import resprune, resprune_json

import resprune as package
from resprune.checkpoint import DEMO_FOLDER
from resprune.report import tables

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def analysis() -> package.Analysis:
    return package.analyze(package.load("demo", device="cpu"))


def test_the_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in DEMO_FOLDER.iterdir()) < 4_000_000


def test_the_blocks_at_the_end_do_not_matter(analysis: package.Analysis) -> None:
    rows, final = analysis.trajectory.rows, analysis.trajectory.final
    assert len(rows) >= 12
    assert analysis.suggested_depth < len(rows)
    assert final.accuracy is not None
    assert final.accuracy >= 0.88
    assert all(row.residual_norm_relative < 1e-3 for row in rows[analysis.suggested_depth :])
    half = rows[len(rows) // 2]
    assert half.exit_accuracy is not None
    assert half.exit_accuracy >= final.accuracy - 0.01


def test_the_early_exits_are_not_good_yet(analysis: package.Analysis) -> None:
    first, final = analysis.trajectory.rows[0], analysis.trajectory.final
    assert first.exit_accuracy is not None
    assert final.accuracy is not None
    assert first.exit_accuracy < final.accuracy - 0.1
    assert first.residual_norm_relative > 0.1


def shown(beginning: str) -> str:
    """Return the output that the README shows, by its beginning."""
    (text,) = [own.text for own in snippets("README.md") if own.text.startswith(beginning)]
    return text


def rounded(text: str) -> str:
    """Return a text without spaces at ends of lines, and without what rounding makes of zeros somewhere."""
    plain = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return re.sub(r"\d\.?\d*e-0[5-9]|0\.0e\+00", "...", plain)


def test_the_readme_s_table_is_that_of_the_demo(analysis: package.Analysis) -> None:
    printed = StringIO()
    Console(width=80, file=printed, highlight=False).print(tables.analyze(analysis))
    assert rounded(printed.getvalue()) == rounded(shown("preact-resnet34"))


@pytest.mark.exhaustive
def test_the_readme_s_main_command(tmp_path: Path) -> None:
    command = re.search(r"&& (resprune prune demo .*)", README.read_text(encoding="utf-8"))
    assert command is not None
    words = shlex.split(command[1])[1:]
    done = resprune(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rounded(done.stdout) == rounded(shown("rule        tail"))
    folder = tmp_path / words[words.index("--out") + 1]
    report = json.loads((folder / "report.json").read_text())
    assert report["plan"]["depth"] < report["checkpoint"]["blocks"]
    assert report["after"]["accuracy"] >= report["before"]["accuracy"] - 0.01
    evaluated = resprune_json("evaluate", folder, "--data", "demo")
    assert evaluated["accuracy"] == report["after"]["accuracy"]
