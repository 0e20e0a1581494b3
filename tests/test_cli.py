"""The command line in subprocesses: start-up, exit statuses, JSON keys, determinism, signals."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from typer.testing import Result

SCRIPT = Path(sys.executable).with_name("resprune")
KEYS_CHECKPOINT = {"path", "sha256", "family", "architecture", "blocks", "parameters", "macs"}
KEYS_BLOCK = {
    "index",
    "path",
    "stage",
    "exit_accuracy",
    "exit_loss",
    "residual_norm",
    "residual_norm_relative",
    "parameter_norm",
    "drop_change_relative",
    "drop_agreement",
    "macs",
    "parameters",
}


def resprune(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120)


def in_process(*words: str | Path, status: int = 0) -> Result:
    """Run a command here: a new process takes seconds, and few of these tests need one."""
    done = run(*words)
    assert done.exit_code == status, done.output
    return done


def in_process_json(*words: str | Path) -> dict[str, Any]:
    return json.loads(in_process(*words, "--json").stdout)


def resprune_json(*words: str | Path, cwd: Path | None = None) -> dict[str, Any]:
    done = resprune(*words, "--json", "--threads", "1", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def contents(folder: Path) -> dict[str, set[bytes]]:
    """Return the lines of every file."""
    return {path.name: set(path.read_bytes().splitlines()) for path in folder.iterdir()}


def imported(code: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after running the code."""
    tail = "\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_without_a_command_it_says_what_there_is() -> None:
    done = resprune()
    assert "Usage: resprune" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_neither_torch_nor_pandas() -> None:
    code = "from resprune.cli import main\nimport sys\nsys.argv = ['resprune', '--help']\n"
    code += "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code"
    modules = imported(code)
    assert "resprune.cli.app" in modules
    assert not {"torch", "pandas", "numpy", "timm", "torchvision", "pyarrow"} & modules


def test_reports_import_no_torch() -> None:
    code = "from resprune.cli import main\nimport sys\n"
    code += "sys.argv = ['resprune', 'report', 'none.json', '--out', 'none.html']\n"
    code += "try:\n    main()\nexcept SystemExit as done:\n    assert done.code == 3"
    modules = imported(code)
    assert {"resprune.report.files", "resprune.report.reading"} <= modules
    assert not {"torch", "pandas", "timm", "torchvision", "pyarrow"} & modules


def test_importing_the_package_imports_nothing_heavy() -> None:
    modules = imported("import resprune\nassert resprune.__version__")
    assert not {"torch", "pandas", "numpy", "rich"} & modules


def test_help_names_every_command() -> None:
    shown = resprune("--help").stdout
    assert all(f"\n  {command} " in shown for command in ("inspect", "analyze", "prune", "evaluate", "env"))
    listed = shown[shown.index("Commands:") :].splitlines()[1:]
    assert not [line for line in listed if line.endswith("...")]  # nothing is cut off


def test_version() -> None:
    from importlib.metadata import version

    assert resprune("--version").stdout == f"resprune {version('resprune')}\n"


def test_inspect_json(cifar_file: Path) -> None:
    found = in_process_json("inspect", cifar_file)
    assert found["schema"] == "resprune/inspect/1"
    assert found["checkpoint"].keys() >= KEYS_CHECKPOINT
    assert found["checkpoint"]["family"] == "cifar-resnet"
    assert found["checkpoint"]["blocks"] == 8
    assert found["stages"] == [3, 2, 3]
    assert found["format"] == "torch zip"
    assert "unwrapped state_dict" in found["notes"]


def test_analyze_json_is_the_same_twice(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    words = ("analyze", cifar_file, "--data", image_folder(), "--samples", "15", "--seed", "3")
    first = in_process_json(*words)
    assert first == in_process_json(*words)
    assert first["schema"] == "resprune/analyze/1"
    assert first["data"].items() >= {"spec": str(words[3]), "split": None, "samples": 15}.items()
    assert first["data"]["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    assert first["final"].keys() >= {"accuracy", "loss"}
    assert [block["index"] for block in first["blocks"]] == list(range(8))
    assert all(block.keys() >= KEYS_BLOCK for block in first["blocks"])
    assert first["suggested_depth"] == 8
    other = in_process_json(*words[:-1], "4")
    assert other["final"]["loss"] != first["final"]["loss"]


def test_analyze_prints_a_table_of_80_columns_and_writes_csv(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "blocks.csv"
    done = in_process("analyze", cifar_file, "--data", image_folder(), "--csv", path)
    assert done.stderr == ""
    *lines, written = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert written == f"Written: {path}"
    assert any("layer3.2" in line for line in lines)
    assert "Suggestion:" in done.stdout
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows][:2] == ["layer1.0", "layer1.1"]
    assert rows[0].keys() == KEYS_BLOCK


@pytest.mark.parametrize(
    "words",
    ["analyze --csv", "analyze --classwise-csv", "analyze --parquet", "prune --frontier --csv"],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(words: str, tmp_path: Path) -> None:
    command, *options = words.split()
    file = tmp_path / "no-such-folder" / "file"
    done = in_process(command, tmp_path / "no-such-network.pth", *options, file, status=3)
    assert "its folder does not exist" in done.stderr
    assert "no-such-network" not in done.stderr


def test_prune_and_evaluate_agree(cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path) -> None:
    data = image_folder()
    report = resprune_json("prune", cifar_file, "--depth", "4", "--data", data, "--out", tmp_path / "out")
    assert report["schema"] == "resprune/prune/1"
    assert report["plan"]["removed"] == [4, 5, 6, 7]
    assert report["output"]["folder"] == str(tmp_path / "out")
    assert sorted(report["output"]["files"]) == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert report["verified"]["max_abs_difference"] <= report["verified"]["tolerance"]
    evaluated = in_process_json("evaluate", tmp_path / "out", "--data", data)
    assert evaluated["schema"] == "resprune/evaluate/1"
    assert evaluated["accuracy"] == report["after"]["accuracy"]
    assert evaluated["loss"] == pytest.approx(report["after"]["loss"], rel=1e-5)
    assert evaluated["checkpoint"]["blocks"] == 4
    assert evaluated["checkpoint"]["parameters"] == report["after"]["parameters"]
    analyzed = in_process_json("analyze", cifar_file, "--data", data)
    assert report["after"]["accuracy"] == analyzed["blocks"][4]["exit_accuracy"]
    assert report["before"]["accuracy"] == analyzed["final"]["accuracy"]


def test_prune_needs_no_data_for_a_depth(cifar_file: Path, tmp_path: Path) -> None:
    report = in_process_json("prune", cifar_file, "--depth", "3", "--out", tmp_path / "out")
    assert report["data"] is None
    assert report["before"]["accuracy"] is None
    assert report["verified"]["against"] == "exit 3 of the origin"
    assert report["verified"]["samples"] == 16
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_dry_run_shows_the_plan_and_stops(cifar_file: Path, tmp_path: Path) -> None:
    shown = in_process("prune", cifar_file, "--depth", "3", "--dry-run", "--out", tmp_path / "out")
    assert "blocks 3 to 7 (5)" in shown.stdout
    report = in_process_json("prune", cifar_file, "--depth", "3", "--dry-run", "--out", tmp_path / "out")
    assert (report["verified"], report["output"]) == (None, None)
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_before_any_work(cifar_file: Path, tmp_path: Path) -> None:
    words = ("prune", cifar_file, "--depth", "3", "--out", tmp_path / "out")
    in_process(*words)
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    again = in_process("prune", cifar_file, "--depth", "2", "--out", tmp_path / "out", status=3)
    assert "--force" in again.stderr
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    in_process("prune", cifar_file, "--depth", "2", "--out", tmp_path / "out", "--force")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_leaves_nothing_behind(
    number: signal.Signals, status: int, cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    data = image_folder(each=400)
    out = tmp_path / "results" / "out"
    command = [str(SCRIPT), "prune", str(cifar_file), "--depth", "3", "--data", str(data)]
    # A shell that runs the tests in the background lets them ignore interrupts, and what they start too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--out", str(out), "--threads", "1", "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    line = process.stdout.readline()
    while "MACs" not in line:
        line = process.stdout.readline()
        assert line, "ended before the plan was shown"
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    word = "interrupted" if number is signal.SIGINT else "terminated"
    assert errors == f"resprune: {word}, nothing was written\n"
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_the_python_interface_gives_the_same_results(
    cifar_file: Path, image_folder: Callable[..., Path]
) -> None:
    import resprune as package
    from resprune.report.results import networks

    data = image_folder()
    analysis = package.analyze(package.load(cifar_file, device="cpu"), data)
    printed = resprune_json("analyze", cifar_file, "--data", data)
    assert printed.pop("made")["command"].startswith("resprune analyze ")
    assert networks.analyze(analysis) == printed


def test_the_same_command_gives_the_same_bytes(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the search for blocks, new statistics, compensation and healing; in two processes."""
    options = ("--data", image_folder(each=4), "--target-macs", "0.6", "--seed", "2", "--heal-steps", "2")
    command = ("prune", cifar_file, *options, "--out", "out")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    reports = [resprune_json(*command, cwd=folders[0])]
    monkeypatch.chdir(folders[1])
    monkeypatch.setattr(sys, "argv", list(map(str, ("resprune", *command, "--json", "--threads", 1))))
    reports.append(in_process_json(*command, "--threads", "1"))
    assert len(reports[0]["recovery"]) == 3
    assert reports[0]["made"]["threads"] == 1
    for report in reports:
        assert report["read_back"].pop("new_process") in (True, False)
    assert reports[0] == reports[1]
    one, two = (contents(folder / "out") for folder in folders)
    assert one.keys() == two.keys()
    different = {line for name in one for line in one[name] ^ two[name]}
    assert all(b"new_process" in line for line in different), different


def test_the_same_fine_tuning_gives_the_same_bytes(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two processes; what differs are times."""
    options = ("--data", image_folder(each=4), "--steps", "3", "--batch-size", "8", "--gamma", "0.1")
    options = ("finetune", cifar_file, *options, "--mixup", "0.2", "--seed", "4", "--out", "out")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    reports = [resprune_json(*options, cwd=folders[0])]
    monkeypatch.chdir(folders[1])
    reports.append(in_process_json(*options, "--threads", "1"))
    for report in reports:
        assert report["read_back"].pop("new_process") in (True, False)
        assert report.pop("seconds") > 0
        assert report.pop("images_per_second") > 0
        assert report["made"].pop("command")
    assert reports[0] == reports[1]
    for name in ("model.safetensors", "config.json"):
        assert (folders[0] / "out" / name).read_bytes() == (folders[1] / "out" / name).read_bytes()


def test_a_report_says_how_it_was_made_and_nothing_of_the_machine(cifar_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = resprune_json("prune", cifar_file, "--depth=4", f"--out={out}", "--seed", "7")
    made = printed["made"]
    assert made["command"].startswith(f"resprune prune {cifar_file} --depth=4 --out={out} --seed 7")
    assert (made["seed"], made["threads"], made["config"]) == (7, 1, None)
    written = json.loads((out / "report.json").read_text())
    assert written["made"]["command"].startswith("resprune prune resnet.pth --depth=4 --out=out --seed 7")
    assert str(tmp_path) not in (out / "report.json").read_text()
