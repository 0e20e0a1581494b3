"""The table of `analyze` on the terminal: 80 columns, bars, no colour needed, one suggestion."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from commands import refusal, run
from rich.console import Console
from rich.text import Text
from studies import analysis

from resprune.report import reading, tables


def shown(monkeypatch: pytest.MonkeyPatch, *, colour: bool, width: int = 80) -> str:
    content = analysis((18, 18, 18))
    for block in content["blocks"]:
        block["path"] = f"backbone.encoder.stage{block['stage']}.blocks.{block['index']}"
    content["blocks"][3]["exit_loss"] = 1234.5678
    content["blocks"][5]["residual_norm_relative"] = 0.5
    if colour:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, highlight=False, markup=False)
    console.print(tables.analyze(reading.study(content, "net").analysis))
    return out.getvalue()


def test_a_deep_network_with_long_names_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Text.from_ansi(shown(monkeypatch, colour=True)).plain.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if "blocks." in line]
    assert len(rows) == 54
    # The end of a name is there, and no figure is cut.
    assert "blocks.53 " in rows[53]
    assert "1234.5678" in rows[3]
    assert all(row.count("\u2026") == 1 for row in rows)
    assert "\u2588" * 10 in rows[5]
    assert max(row.count("\u2588") for k, row in enumerate(rows) if k != 5) <= 2
    assert "\u2588" not in rows[53]
    assert sum("Suggestion: " in line for line in lines) == 1


def test_nothing_is_lost_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    with_colours, without = (shown(monkeypatch, colour=colour) for colour in (True, False))
    assert Text.from_ansi(with_colours).plain == Text.from_ansi(without).plain
    assert "\x1b[36m" in with_colours
    assert not any(f"\x1b[{code}m" in without for code in range(30, 38))


def test_parquet_holds_what_the_json_does(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "blocks.parquet"
    words = ("analyze", cifar_file, "--data", image_folder(), "--no-drops", "--json", "--parquet")
    blocks = json.loads(run(*words, path).stdout)["blocks"]
    assert pyarrow.parquet.read_table(path).to_pylist() == blocks
    assert blocks[0]["drop_agreement"] is None
    assert "is a folder" in refusal(3, *words, tmp_path)
