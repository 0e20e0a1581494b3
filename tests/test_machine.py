"""`resprune env`: what is installed and on what machine, also where something is broken."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import run
from schemas import assert_valid

from resprune import machine


def test_versions_of_all_that_is_asked_for() -> None:
    done = run("env", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert_valid(found)
    by_name = {own["name"].lower(): own for own in found["libraries"]}
    wanted = {"torch", "torchvision", "timm", "safetensors", "typer", "rich", "pandas"}
    assert wanted <= {name for name, own in by_name.items() if not own["extra"]}
    assert all(by_name[name]["version"] == version(name) for name in wanted)
    assert not any(own["problem"] for own in found["libraries"] if not own["extra"])
    assert by_name["onnxruntime"]["extra"] == "onnx"
    assert found["threads"] == torch.get_num_threads()
    assert len(found["accelerators"]) == torch.cuda.device_count()
    assert list(found["extras"]) == ["onnx", "hf", "data", "report", "tensorboard"]


def test_the_table_names_what_is_there() -> None:
    shown = run("env").stdout
    assert f"torch {version('torch')}" in shown
    assert f"resprune       {version('resprune')}" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_what_is_missing_is_told_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> str:
        if name == "onnxruntime":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "timm" else version(name)

    monkeypatch.setattr(machine, "version", without)
    found = machine.environment()
    assert found.missing["onnx"] == ("onnxruntime",)
    assert [(own.name, own.problem[:16]) for own in found.problems] == [("timm", "resprune needs >")]
    shown = run("env").stdout
    assert "[onnx]         without onnxruntime: pip install 'resprune[onnx]'" in shown
    assert shown.splitlines()[-1].startswith("timm 0.0.1: resprune needs >=")


def test_a_broken_build_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        if name in ("torch", "torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist\nat line 3")
        return sys.modules.get(name)

    monkeypatch.setattr(machine, "import_module", broken)
    done = run("env", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert_valid(found)
    assert (found["threads"], found["cuda"], found["accelerators"]) == (None, None, [])
    problems = {own["name"]: own["problem"] for own in found["libraries"] if own["problem"]}
    told = "cannot be imported: operator torchvision::nms does not exist"
    assert problems == {"torch": told, "torchvision": told}


def test_accelerators_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [
        SimpleNamespace(name="NVIDIA H200", total_memory=140 << 30, major=9, minor=0),
        SimpleNamespace(name="Tesla T4", total_memory=15 << 30, major=7, minor=5),
    ]
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_device_properties=devices.__getitem__,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    shown = run("env").stdout
    assert "NVIDIA H200, 140.0 GiB, sm 9.0, bf16 " in shown
    assert "Tesla T4, 15.0 GiB, sm 7.5, no bf16 " in shown


@pytest.mark.parametrize(
    ("capabilities", "has", "told"),
    [
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": True}, True, " GiB, bf16 "),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True, " GiB, bf16 "),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, False, " GiB, no bf16 "),
        ({}, None, " GiB "),
    ],
)
def test_whether_the_cpu_has_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], has: bool | None, told: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert machine.environment().cpu_bf16 is has
    line = next(line for line in run("env").stdout.splitlines() if line.startswith("CPU"))
    assert told in f"{line} "


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, limit = machine.machine_memory(), tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CONTAINER_LIMITS", (limit, tmp_path / "none"))
    limit.write_text("max\n")
    assert machine.machine_memory() >= whole
    limit.write_text("1048576\n")
    assert machine.machine_memory() == 1 << 20
