"""``--config FILE``: the same as on the command line, or refused with the line and the key."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from commands import only_line, refusal, run

from resprune.cli import config
from resprune.cli.app import app


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def planned(*arguments: object) -> dict[str, Any]:
    result = run("prune", *arguments, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_file_gives_what_the_command_line_gives(cifar_file: Path, tmp_path: Path) -> None:
    text = f"prune:\n  checkpoint: {cifar_file}\n  remove: 3,layer3.2\n  recover: false\n  seed: 3\n"
    text += "  assume: [padding=centred]\n  dry-run: yes\n  split: null\nevaluate:\n  data: demo\n"
    options = "--remove 3,layer3.2 --no-recover --seed 3 --assume padding=centred"
    result = run("prune", "--config", written(tmp_path / "a.yaml", text), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    typed = planned(cifar_file, *shlex.split(options))
    made = found.pop("made")
    assert typed.pop("made") | {"command": made["command"], "config": made["config"]} == made
    assert found == typed
    assert found["plan"]["removed"] == [3, 7]
    assert made["seed"] == 3
    assert made["config"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert made["config"]["options"]["recover"] is False
    assert made["config"]["options"]["assume"] == ["padding=centred"]


def test_the_command_line_wins(cifar_file: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", f"prune:\n  checkpoint: {tmp_path}\n  depth: 5\n  recover: true\n")
    found = planned(cifar_file, "--config", file, "--depth", 3, "--no-recover")
    assert found["plan"]["depth"] == 3
    assert found["checkpoint"]["path"] == str(cifar_file)


def test_the_file_of_one_command_is_not_that_of_the_next(cifar_file: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", "prune:\n  depth: 5\n")
    assert planned(cifar_file, "--config", file)["made"]["config"]["options"] == {"depth": "5"}
    assert planned(cifar_file, "--depth", 5)["made"]["config"] is None


def test_several_values_for_one_argument(tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", "report:\n  results: [a.json, b.json]\n  out: page.html\n")
    assert "a.json" in refusal(3, "report", "--config", file)


@pytest.mark.parametrize(
    "command", [info.callback.__name__ for info in app.registered_commands if info.callback]
)
def test_every_command_takes_every_option_of_its_own(command: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", f"{command}:\n  surely-not: 1\n")
    line = refusal(2, command, "--config", file)
    assert line.startswith(f"resprune: {file}, line 2: 'surely-not' is no option of {command}; choose from ")
    shown = set(re.findall(r"^  --([\w-]+)", run(command, "--help").stdout, re.MULTILINE))
    known = set(line.partition("choose from ")[2].split(", "))
    assert {"debug", "log-format"} <= shown - {"config"} <= known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune:\n  tols: 3", "line 2: 'tols' is no option of prune; did you mean tol?"),
        ("prune:\n  target_macs: 3", "line 2: 'target_macs' is no option of prune; did you mean target-macs?"),
        ("prune:\n  no-recover: true", "line 2: 'no-recover' is no option of prune; write recover: false"),
        ("prune:\n  config: b.yaml", "line 2: 'config' is no option of prune; choose from arch, "),
        ("a: 1\nprune:\n  depth: 1", "line 1: 'a' is no command; choose from analyze, bench, "),
        ("prnue:\n  depth: 1", "line 1: 'prnue' is no command; did you mean prune?"),
        ("prune:\n  depth: 1\n\n  depth: 2", "line 4: 'depth' stands in line 2 already; leave one of them out"),
        ("prune:\n  depth: 1\nprune:\n  tol: 1", "line 3: 'prune' stands in line 1 already"),
        ("prune:\n  depth: 1\nfinetune:\n  lr: 1\n  rate: 2", "line 5: rate is the same as lr; give one"),
        ("prune:\n  depth: two", "line 2: depth: Input should be a valid integer"),
        ("prune:\n  depth: two", ", got 'two'"),
        ("prune:\n  depth: -1", "line 2: depth: Input should be greater than or equal to 0, got '-1'"),
        ("prune:\n  depth: 1\nexport:\n  format: onix", "line 4: format: 'onix' is not one of 'timm', "),
        (
            "prune:\n  depth: [1, 2]",
            "line 2: depth takes one value, got a list; write it as on the command line",
        ),
        ("prune:\n  depth: {a: 1}", "line 2: depth takes one value, got lines KEY: VALUE; write it as"),
        ("prune:\n  assume: [[a]]", "line 2: assume takes a list of values; do not nest them"),
        ("prune:\n  dry-run: maybe", "line 2: dry-run is true or false, got 'maybe'"),
        ("prune:\n  dry-run: 'true'", "line 2: dry-run is true or false, got 'true'"),
        ("prune:\n  [a]: 1", "line 2: a key must be a name; write KEY: VALUE"),
        ("prune: 3", "line 1: expected lines KEY: VALUE; write target-macs: 0.66"),
        ("- prune", "line 1: expected lines KEY: VALUE"),
        ("prune:\n\tdepth: 3", "line 2: is no YAML (found character '\\t' that cannot start any token)"),
        ("prune: *none", "line 1: is no YAML (found undefined alias"),
        ("prune:\n---\nprune:\n", "line 2: is no YAML (but found another document)"),
        ("prune: \0", ": is no YAML (unacceptable character #x0000: special characters are not allowed)"),
        ("&a [*a]", "line 1: expected lines KEY: VALUE"),
        ("prune:\n  assume: &a [*a]", "line 2: assume takes a list of values"),
        ("[" * 2000, ": is no YAML (nested too deeply)"),
        ("", ": is empty; write a section such as prune:"),
        ("evaluate:\n  data: demo", ": there is no section 'prune'; add one, or leave --config out"),
        ("#" * 1_000_001, ": is too long to be a configuration; name a YAML file"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_line_and_key(text: str, message: str, tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", text)
    line = refusal(2, "prune", "demo", "--config", file)
    assert line.startswith(f"resprune: {file}")
    assert message in line


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"prune:\n  data: \xe4\n")
    assert "latin.yaml: is no YAML (unacceptable character #x00e4" in refusal(
        2, "prune", "--config", tmp_path / "latin.yaml"
    )
    for place, reason in {
        tmp_path: "Is a directory",
        tmp_path / "none.yaml": "No such file or directory",
    }.items():
        assert f"{place}: cannot be read ({reason}); name a YAML" in refusal(2, "prune", "--config", place)


def test_nothing_in_a_file_is_made_or_run(tmp_path: Path) -> None:
    text = f"prune:\n  data: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    assert "line 2: data takes one value" in refusal(2, "prune", "--config", written(tmp_path / "a.yaml", text))
    assert not (tmp_path / "made").exists()


def test_messages_as_json(cifar_file: Path, image_folder: Any) -> None:
    arguments = ("evaluate", cifar_file, "--data", image_folder(), "--log-format", "json", "--json")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["schema"] == "resprune/evaluate/1"
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert lines
    assert all({"time", "level", "message"} <= line.keys() for line in lines)
    steps = [line["progress"] for line in lines if "progress" in line]
    assert [step["done"] for step in steps[:2]] == [0, 20]
    # Random weights guess: other assumptions are tried, however many there are.
    assert [step["done"] for step in steps[2:]] == [0, steps[-1]["total"]]
    assert run(*arguments[:4]).stderr == ""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["prune", "demo", "--log-format", "json"], 2, "give a tolerance, a depth or blocks to remove, one"),
        (["prune", "--log-format=json"], 2, "Missing argument"),
        (["prune", "demo", "--depht", "1", "--log-format", "json"], 2, "No such option: --depht"),
        (["nothing", "--log-format", "json"], 2, "No such command 'nothing'"),
        (["evaluate", "none.pth", "--log-format", "json"], 3, "none.pth"),
    ],
)
def test_errors_as_json(arguments: list[str], status: int, message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    (line,) = map(json.loads, result.stderr.splitlines())
    assert line["level"] == "error"
    assert line["status"] == status
    assert message in line["message"]


def test_a_file_can_ask_for_json_messages(tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", "prune:\n  log-format: json\n  depth: 1\n")
    (line,) = run("prune", "demo", "--config", file).stderr.splitlines()
    assert "no output folder given" in json.loads(line)["message"]
    assert only_line(run("prune", "demo", "--depth", 1).stderr).startswith("resprune: no output")
    assert config.used.get() is None
