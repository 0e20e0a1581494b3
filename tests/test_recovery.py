"""`--remove` and the recovery of batch-norm statistics, from the pipeline to the command line."""

from __future__ import annotations

import json
from pathlib import Path

from commands import run


def test_any_blocks_go_by_index_or_name_without_data(cifar_file: Path, tmp_path: Path) -> None:
    words = ("prune", cifar_file, "--remove", "layer2.1,layer1.0, 3", "--out", tmp_path / "out")
    shown = [line.rstrip() for line in run(*words, "--dry-run").stdout.splitlines()]
    assert "why         0, 3, 4 removed: named by --remove" in shown
    assert "            1, 2, 5-7 kept: not named by --remove" in shown
    assert max(map(len, shown)) <= 80
    report = json.loads(run(*words, "--json").stdout)
    assert report["plan"]["removed"] == [0, 3, 4]  # all of the second stage among them
    assert len(report["plan"]["reasons"]) == 8
    assert report["data"] is None
    assert report["verified"]["against"] == "the origin, removed branches left out"
    found = json.loads(run("inspect", tmp_path / "out", "--json").stdout)
    assert found["stages"] == [2, 0, 3]
