"""Hostile, damaged and odd files end in one clear line or a network, in seconds and little memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import corpus
import pytest

import resprune

SECONDS = 30.0
"""Of processor time: a bound against hanging, far above what any case takes on a busy machine."""
MEMORY = 2 << 30


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How every case ended, read one after the other in a process of its own."""
    places = corpus.write(tmp_path_factory.mktemp("corpus"))
    done = subprocess.run(
        [sys.executable, corpus.__file__],
        input="".join(f"{place}\n" for place in places.values()),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(resprune.__file__).parents[1])},  # this tree, not another
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(places), f"{list(places)[len(lines)]}: {done.stderr[-2000:]}"
    return dict(zip(places, map(json.loads, lines), strict=True))


def test_the_corpus_is_large() -> None:
    assert len(corpus.CASES) >= 40


@pytest.mark.parametrize("name", corpus.CASES)
def test_a_file_ends_in_one_line_or_a_network(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    outcome, expected = outcomes[name], corpus.CASES[name][1]
    assert re.search(expected, outcome["ended"]), outcome["ended"]
    assert not re.match("crashed|no hint", outcome["ended"])
    assert (expected == corpus.FINE) <= outcome["ended"].startswith(corpus.FINE)
    assert outcome["ended"].isprintable()
    assert outcome["seconds"] < SECONDS
    assert outcome["peak"] < MEMORY
