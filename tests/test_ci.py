"""The action and the examples for continuous integration say what the command line understands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from resprune.cli.app import app

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.M | re.S)
COMMANDS: dict[str, Any] = vars(get_command(app))["commands"]


def options_of(command: str) -> set[str]:
    params = COMMANDS[command].params
    return {name for param in params for name in (*param.opts, *param.secondary_opts)}


def commands_in(node: Any) -> Iterator[list[str]]:
    """Yield the command lines of resprune in a document: where it is called, and where the action is used."""
    if isinstance(node, dict):
        if "resprune@" in str(node.get("uses")):
            given = node["with"]
            assert set(given) <= set(ACTION["inputs"])
            config = ["--config", given["config"]] if "config" in given else []
            yield [given["command"], *config, *shlex.split(given.get("args", ""))]
        for value in node.values():
            yield from commands_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from commands_in(value)
    elif isinstance(node, str):
        yield from (shlex.split(words) for words in re.findall(r"\bresprune ((?:prune|check)\b[^\n>]*)", node))


def test_the_documents_hold_a_configuration_a_workflow_a_pipeline_and_a_hook() -> None:
    documents = [yaml.safe_load(block) for block in BLOCKS]
    assert [next(iter(document)) for document in documents] == ["prune", "name", "compress", "repos"]
    used = [words for document in documents for words in commands_in(document)]
    assert [words[0] for words in used] == ["prune", "check", "prune", "check", "check"]
    for command, *words in used:
        if command in COMMANDS:
            assert {word for word in words if word.startswith("--")} <= options_of(command)


def test_the_configuration_is_one() -> None:
    for command, given in yaml.safe_load(BLOCKS[0]).items():
        if command in COMMANDS:
            assert {f"--{key}" for key in given if key != "checkpoint"} <= options_of(command)


@pytest.mark.parametrize("status", [0, 1])
def test_the_action_runs_what_it_is_given(status: int, tmp_path: Path) -> None:
    assert ACTION["runs"]["using"] == "composite"
    (step,) = (step for step in ACTION["runs"]["steps"] if step.get("id") == "run")
    assert "${{" not in step["run"], "an input in a script is run by the shell"
    given = {
        "command": "prune",
        "checkpoint": "a b.pth",
        "config": "resprune.yaml",
        "args": "--out 'c d' --tol $(id)",
    }
    inputs = {
        f"${{{{ inputs.{name} }}}}": str(given.get(name, own["default"]))
        for name, own in ACTION["inputs"].items()
    }
    stub = tmp_path / "resprune"
    stub.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit {status}\n")
    stub.chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    environment: dict[str, str] = {name: inputs[value] for name, value in step["env"].items()}
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(tmp_path / "output")}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    words = ["prune", "a b.pth", "--config", "resprune.yaml", "--out", "c d", "--tol", "$(id)"]
    assert done.stdout.splitlines() == words
    assert (tmp_path / "output").read_text() == f"status={status}\n"
