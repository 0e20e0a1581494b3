"""Every command's JSON against its published schema, and the schemas themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from commands import refusal, run
from jsonschema import Draft202012Validator, ValidationError
from schemas import assert_valid, closed

from resprune.report.schemas import schema
from resprune.report.schemas.commands import COMMANDS


def json_of(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_schemas_are_schemas_and_complete(command: str) -> None:
    printed = json.loads(run("schema", command).stdout)
    assert printed == schema(command)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(printed)
    text = json.dumps(printed)
    used = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert used == set(printed["$defs"])


def test_a_command_without_json_has_no_schema() -> None:
    assert "no command 'schema' that prints JSON; use inspect, analyze" in refusal(2, "schema", "schema")


def test_families() -> None:
    found = json_of("families")
    assert_valid(found)
    by_name = {own["networks"]: own for own in found["families"]}
    assert "resnet50" in by_name["torchvision ResNet, timm's plain ones"]["names"]
    assert by_name["torchvision RegNet"]["loads_in"] == ["torchvision", "resprune"]
    refused = [own for own in found["families"] if own["refused"]]
    assert refused
    assert not any(own["loads_in"] for own in refused)


def test_inspect_evaluate_and_bench(cifar_file: Path) -> None:
    assert_valid(json_of("inspect", cifar_file))
    assert_valid(json_of("evaluate", "demo", "--samples", 8))
    assert_valid(json_of("bench", cifar_file, "--rounds", 1))
    assert_valid(json_of("bench", cifar_file, "--against", cifar_file, "--rounds", 2))


def test_analyze_and_its_bounds(cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = image_folder()
    assert_valid(json_of("analyze", cifar_file, "--data", data))
    assert_valid(json_of("analyze", "demo", "--samples", 8, "--no-drops"))
    assert_valid(json_of("prune", cifar_file, "--depth", 3, "--out", tmp_path / "sub"))
    found = json_of("analyze", cifar_file, "--data", data, "--bounds", "--sub", tmp_path / "sub")
    assert found["bounds"]
    assert_valid(found)


def test_prune_and_its_report(cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_valid(json_of("prune", cifar_file, "--depth", 3, "--dry-run"))
    words = ("--remove", "3,5", "--data", image_folder(each=4), "--heal-steps", 1, "--control", "random")
    printed = json_of("prune", cifar_file, *words, "--control-seeds", 1, "--out", out)
    assert {own["kind"] for own in printed["recovery"]} >= {"healing"}
    assert printed["controls"]
    assert_valid(printed)
    assert_valid(json.loads((out / "report.json").read_text()))


def test_a_plan_with_a_budget(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    data = image_folder(each=4)
    words = ("--target-macs", 0.8, "--data", data, "--no-recover", "--dry-run")
    printed = json_of("prune", cifar_file, *words)
    assert printed["plan"]["beside"]
    assert_valid(printed)


def test_compare_on_images_and_on_noise(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    assert_valid(json_of("compare", cifar_file, cifar_file))
    assert_valid(json_of("compare", cifar_file, cifar_file, "--data", image_folder()))
    assert_valid(json_of("compare", cifar_file, cifar_file, "--data", image_folder("flat") / "class0"))


def test_finetune_its_lines_and_its_report(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    words = ("--steps", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu", "--out", out)
    assert_valid(json_of("finetune", cifar_file, "--data", image_folder(), *words))
    for line in (out / "metrics.jsonl").read_text().splitlines():
        assert_valid(json.loads(line))
    assert_valid(json.loads((out / "report.json").read_text()))


def test_export(cifar_file: Path, tmp_path: Path) -> None:
    assert_valid(json_of("export", cifar_file, "--format", "safetensors", "--out", tmp_path / "out"))


def test_check() -> None:
    words = ("--max-drop", 1, "--max-params", "1M", "--max-residual-tail", 1, "--tail-from", 3)
    assert_valid(json_of("check", "demo", "--against", "demo", "--samples", 8, *words))
    assert_valid(json_of("check", "demo", "--max-params", "10k", status=1))


def test_a_key_that_is_not_described_is_found_anywhere() -> None:
    found = json_of("check", "demo", "--max-params", "1M")
    strict = Draft202012Validator(closed(schema("check")))
    strict.validate(found)
    for place in (lambda own: own, lambda own: own["checkpoint"], lambda own: own["conditions"][0]):
        changed = deepcopy(found)
        place(changed)["new"] = 1
        with pytest.raises(ValidationError):
            strict.validate(changed)
        Draft202012Validator(schema("check")).validate(changed)  # users' validators outlive new keys
