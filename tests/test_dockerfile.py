"""The Dockerfile as far as it can be checked without building it: what it names has to be there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from resprune.cli.app import app

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments) pairs, comments left out and continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(word, rest) for word, rest in pairs]


def arguments(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_the_entry_point_is_the_program_that_is_installed() -> None:
    (entry,) = arguments("ENTRYPOINT")
    assert entry == '["resprune"]'
    assert "resprune" in PROJECT["scripts"]
    assert arguments("CMD") == ['["--help"]']


def test_the_base_and_the_index_of_torch_are_build_arguments() -> None:
    given = dict(rest.split("=", 1) for rest in arguments("ARG"))
    assert given.keys() == {"BASE", "TORCH_INDEX", "EXTRAS"}
    words = [word for word, _ in instructions()]
    assert words[:2] == ["ARG", "FROM"]  # an argument of FROM stands before it
    assert arguments("FROM") == ["${BASE}"]
    lowest = re.findall(r"[0-9]+", PROJECT["requires-python"])
    assert tuple(map(int, re.findall(r"[0-9]+", given["BASE"]))) >= tuple(map(int, lowest))
    assert set(given["EXTRAS"].split(",")) <= PROJECT["optional-dependencies"].keys()
    steps = arguments("RUN")
    assert any('"/src[${EXTRAS}]"' in step for step in steps)
    assert any('--index-url "${TORCH_INDEX}"' in step for step in steps)


def test_torch_is_asked_for_as_the_project_asks() -> None:
    (install,) = [step for step in arguments("RUN") if "TORCH_INDEX" in step]
    wanted = [word for word in shlex.split(install) if word.startswith("torch")]
    assert sorted(wanted) == sorted(own for own in PROJECT["dependencies"] if own.startswith("torch"))


def test_what_is_copied_is_there_and_enough_to_build() -> None:
    copied = {source for rest in arguments("COPY") for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    assert {"pyproject.toml", "resprune", PROJECT["readme"], *PROJECT["license-files"]} <= copied


def test_it_does_not_run_as_root() -> None:
    words = instructions()
    (user,) = arguments("USER")
    assert user not in ("root", "0")
    made = next(index for index, (_, rest) in enumerate(words) if "useradd" in rest and rest.endswith(user))
    assert made < words.index(("USER", user))
    assert not [rest for word, rest in words[words.index(("USER", user)) :] if word == "RUN"]


@pytest.mark.parametrize("file", ["README.md", "docs/ci.md", "Dockerfile"])
def test_the_documented_run_is_a_command_of_ours_where_it_is_mounted(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"docker run .*-v .*", text)
    assert lines
    for line in lines:
        words = shlex.split(line)
        folder = words[words.index("-v") + 1].split(":")[1]
        assert [folder] == arguments("WORKDIR")
        image = words.index("resprune") if "resprune" in words else words.index("resprune:cuda")
        name, *given = words[image + 1 :]
        commands: Any = typer.main.get_command(app)
        commands.commands[name].make_context(name, given)  # refuses options that are not there
