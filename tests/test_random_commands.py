"""Command lines drawn at random, of options that are right and wrong, never end in a traceback."""

from __future__ import annotations

import os
import random
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from typer.main import get_command

from resprune.cli.app import app

LINES, PARTS = 200, 10
COMMANDS: dict[str, Any] = vars(get_command(app))["commands"]
WRONG = [
    "",
    " ",
    "abc",
    "-1",
    "nan",
    "-inf",
    "1e400",
    "1" + 30 * "0",
    "a=b",
    "1,2,,",
    "0:x",
    "\n",
    "ä\x1b[1m",
    "/",
]
RIGHT = {
    "gamma": ["0", "0.02", "0:0.1"],
    "heads": ["shared", "separate"],
    "interpolation": ["bilinear"],
    "mean": ["0.5,0.5,0.5"],
    "method": ["surgical", "stagewise", "tail"],
    "mode": ["eager"],  # others compile, or start a process
    "optimizer": ["sgd", "adamw"],
    "precision": ["fp32"],
    "recipe": ["default", "heal", "paper"],
    "remove": ["0", "3,layer3.2", "9"],
    "rounds": ["1", "2"],
    "seconds": ["0.01", "0"],
    "schedule": ["cosine", "steps"],
    "std": ["0.2,0.2,0.2"],
    "weights": ["auto", "ema"],
    "assume": ["padding=centred", "padding=trailing", "stride=1x1"],
    "control": ["random", "scratch"],
    "teacher": ["none", "original"],
    "format": ["timm", "onnx"],
}
NUMBERS = ["0", "1", "2", "0.5", "1e-3"]
LEFT_OUT = {"compile_", "workers", "auto_augment", "track", "debug"}
"""Options that start compilers and processes; and the one that asks for a traceback."""


@pytest.fixture
def places(cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path) -> dict[str, list[str]]:
    """Values of the options that name files: there, not there, or another thing."""
    data, junk = image_folder(), tmp_path / "junk.pth"
    junk.write_bytes(b"junk" * 99)
    (tmp_path / "options.yaml").write_text("prune:\n  depth: 3\nevaluate:\n  seed: 1\n")
    networks = [str(cifar_file)] * 4 + [str(junk), str(data), str(tmp_path / "none")]
    images = [str(data)] * 4 + [str(data / "class0"), str(cifar_file), str(tmp_path / "none")]
    out = [str(tmp_path / "out"), str(junk), "/proc/none/out"]
    files = {name: [*out, str(tmp_path / "file")] for name in ("csv", "parquet", "report", "plots")}
    config = [str(tmp_path / "options.yaml"), str(junk), str(tmp_path)]
    named = dict.fromkeys(("checkpoint", "other", "sub", "against"), networks)
    return named | files | {"data": images, "out": out, "config": config, "results": [str(junk)]}


def drawn(dice: random.Random, places: dict[str, list[str]]) -> list[str]:
    """Return a command line."""
    name = dice.choice(list(COMMANDS))
    words = [name]
    for param in COMMANDS[name].params:
        argument = param.param_type_name == "argument"
        needed = argument or param.name in ("data", "depth", "format", "seconds", "steps")
        if param.name in LEFT_OUT or dice.random() > (0.97 if needed else 0.08):
            continue
        right = places.get(param.name) or RIGHT.get(param.name) or NUMBERS
        if name == "export" and param.name == "out":
            right = right[1:]  # what is written is read back in a process of its own
        value = dice.choice(WRONG if dice.random() < 0.07 else right)
        option = dice.choice([*param.opts, *param.secondary_opts])
        words += [value] if argument else [option] if param.is_flag else [f"{option}={value}"]
    if dice.random() < 0.1:
        words.insert(dice.randrange(len(words) + 1), dice.choice(["--nothing", "-q", "--", "more", *WRONG]))
    return words


@pytest.mark.parametrize("part", range(PARTS))
def test_no_command_line_ends_in_a_traceback(
    part: int, places: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(part)
    statuses = []
    for _ in range(LINES // PARTS):
        words = drawn(dice, places)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = run(*words)
        told = shlex.join(words)
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert result.exit_code in (0, 1, 2, 3), told
        assert bool(result.exit_code) <= bool(result.stderr), told
        statuses.append(result.exit_code)
    assert len(set(statuses)) > 1  # else all lines are wrong in the same way
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".draft")]
