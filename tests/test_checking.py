"""`resprune check`: conditions that pass and fail on the demo, formats, exit statuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from commands import refusal, run
from schemas import assert_valid

import resprune
from resprune.cli.checking import _bytes, _count, _fraction
from resprune.errors import UsageError
from resprune.records import Limits
from resprune.report.gates import annotation

SAMPLES = ("--samples", 200)


def pruned(depth: int, folder: Path) -> Path:
    chain = resprune.load("demo", device="cpu")
    plan = resprune.select(depth=depth, blocks=chain.depth)
    resprune.save(resprune.prune(chain, plan, samples=8, recover=False), folder, read_back=False)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo without blocks that do nothing."""
    return pruned(7, tmp_path_factory.mktemp("good") / "good")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo without blocks that it needs."""
    return pruned(1, tmp_path_factory.mktemp("bad") / "bad")


def checked(*arguments: object, status: int = 0) -> dict[str, Any]:
    done = run("check", *arguments, "--json")
    assert done.exit_code == status, done.output
    found = json.loads(done.stdout)
    assert_valid(found)
    assert found["exit_status"] == status
    return found


def by_name(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {own["name"]: own for own in found["conditions"]}


CONDITIONS: dict[str, tuple[tuple[object, ...], str]] = {
    # What the good network keeps to and the bad one does not; what it is called.
    "drop": (("--max-drop", 0.5), "max-drop"),
    "accuracy": (("--min-accuracy", 85), "min-accuracy"),
    "loss": (("--max-loss-increase", 0.01), "max-loss-increase"),
    "agreement": (("--min-agreement", 97.5), "min-agreement"),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_what_is_measured_on_images(case: str, good: Path, bad: Path) -> None:
    words, name = CONDITIONS[case]
    own = by_name(checked(good, "--against", "demo", *SAMPLES, *words))[name]
    assert (own["verdict"], own["within_noise"]) == ("passed", False)
    assert own["interval"][0] <= own["measured"] <= own["interval"][1]
    own = by_name(checked(bad, "--against", "demo", *SAMPLES, *words, status=1))[name]
    assert own["verdict"] == "failed"
    assert own["interval"][0] > own["limit"] or own["interval"][1] < own["limit"]


def test_figures_are_those_of_other_commands(bad: Path) -> None:
    words = ("--max-drop", 100, "--min-agreement", 2, "--min-accuracy", 2)
    found = checked(bad, "--against", "demo", *SAMPLES, *words)
    compared = json.loads(run("compare", "demo", bad, *SAMPLES, "--json").stdout)
    evaluated = json.loads(run("evaluate", bad, "--data", "demo", *SAMPLES, "--json").stdout)
    own = by_name(found)
    assert own["min-agreement"]["measured"] == compared["agreement"]
    assert own["min-accuracy"]["measured"] == found["accuracy"] == evaluated["accuracy"]
    assert own["max-drop"]["measured"] == pytest.approx(100 * (compared["accuracy"] - evaluated["accuracy"]))
    assert found["outcomes"]["only_against"] == compared["outcomes"]["only_checkpoint"]
    assert found["against"]["checkpoint"] == compared["checkpoint"]
    alone = checked(bad, "--data", "demo", *SAMPLES, "--min-accuracy", 2)
    assert by_name(alone)["min-accuracy"] == own["min-accuracy"]
    assert alone["against"] is None


@pytest.mark.parametrize(
    ("holds", "fails"),
    [
        (("--max-macs", 0.5), ("--max-macs", 0.4)),
        (("--max-macs", "6.4M"), ("--max-macs", "6M")),
        (("--max-params", 0.45), ("--max-params", 0.44)),
        (("--max-params", "34k"), ("--max-params", 33049)),
        (("--max-file-size", "150kB"), ("--max-file-size", 100_000)),
    ],
)
def test_sizes(holds: tuple[object, ...], fails: tuple[object, ...], good: Path) -> None:
    base = ("--against", "demo")
    own = by_name(checked(good, *base, *holds))[str(holds[0])[2:]]
    assert own["interval"] is None
    if holds[0] == "--max-file-size":
        assert own["measured"] == (good / "model.safetensors").stat().st_size
    assert by_name(checked(good, *base, *fails, status=1))[str(fails[0])[2:]]["verdict"] == "failed"


def test_the_tail_of_residuals() -> None:
    tail = ("--max-residual-tail", 1e-3, "--tail-from")
    own = by_name(checked("demo", *SAMPLES, *tail, 7))["max-residual-tail"]
    assert 0 <= own["measured"] <= 1e-3
    assert by_name(checked("demo", *SAMPLES, *tail, 6, status=1))["max-residual-tail"]["measured"] > 0.01


def test_a_speedup_is_measured_only_where_it_is_asked_for(good: Path) -> None:
    quick = ("--against", "demo", "--seconds", 0.05, "--threads", 1, "--latency-batch", 2)
    own = by_name(checked(good, *quick, "--min-speedup", 1e-3))["min-speedup"]
    assert own["verdict"] == "passed"
    assert "2 images a call, cpu, 1 thread" in own["detail"]
    assert by_name(checked(good, *quick, "--min-speedup", 1e6, status=1))["min-speedup"]["verdict"] == "failed"


def test_within_noise_passes_with_a_note_and_fails_strictly(good: Path) -> None:
    words = (good, "--data", "demo", *SAMPLES)
    accuracy = 100 * checked(*words, "--min-accuracy", 50)["accuracy"]
    found = by_name(checked(*words, "--min-accuracy", accuracy + 0.4))["min-accuracy"]
    assert (found["verdict"], found["within_noise"]) == ("passed", True)
    shown = run("check", *words, "--min-accuracy", accuracy + 0.4)
    assert (shown.exit_code, "passed, within noise" in shown.stdout) == (0, True)
    checked(*words, "--min-accuracy", accuracy + 0.4, "--strict", status=1)
    checked(*words, "--min-accuracy", accuracy, "--strict")


# ONNX files


def test_an_export_is_a_candidate(good: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    file = tmp_path / "good.onnx"
    assert run("export", good, "--format", "onnx", "--out", file).exit_code == 0
    answers = ("--max-drop", 0.5, "--max-loss-increase", 0.01, "--min-agreement", 97.5, "--min-accuracy", 85)
    found = checked(file, "--against", "demo", *SAMPLES, *answers, "--max-file-size", "500kB")
    folder = by_name(checked(good, "--against", "demo", *SAMPLES, *answers))
    for name, own in by_name(found).items():
        if name != "max-file-size":
            assert own["measured"] == pytest.approx(folder[name]["measured"], abs=1e-5)
    assert found["checkpoint"]["parameters"] is None
    # The file says how images become its input, so it needs no other network.
    alone = checked(file, "--data", "demo", *SAMPLES, "--min-accuracy", 85)
    assert by_name(alone)["min-accuracy"] == by_name(found)["min-accuracy"]
    evaluated = run("evaluate", file, "--data", "demo", *SAMPLES, "--json")
    assert json.loads(evaluated.stdout)["accuracy"] == alone["accuracy"]
    assert_valid(json.loads(evaluated.stdout))
    assert "good.onnx, 200 images of demo" in run("evaluate", file, "--data", "demo", *SAMPLES).stdout
    assert "; blocks are not to be found in ONNX files; evaluate" in refusal(3, "analyze", file)
    blocks = ("--max-macs", 0.5, "--max-params", "40k", "--max-residual-tail", 1, "--tail-from", 3)
    found = by_name(checked(file, "--against", "demo", *SAMPLES, *blocks, status=3))
    assert {own["verdict"] for own in found.values()} == {"not measured"}
    assert found["max-residual-tail"]["detail"] == "an ONNX file has no blocks to look at"
    # One of unknown origin does not say it.
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, file)
    line = refusal(2, "check", file, "--data", "demo", "--min-accuracy", 85)
    assert "does not say how images become its input; compare it with the checkpoint" in line


# Hashes


def test_a_folder_is_held_against_its_hashes(good: Path, tmp_path: Path) -> None:
    assert [own["name"] for own in checked(good)["conditions"]] == ["hashes"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in good.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "README.md").write_text("a card is there to be edited")
    checked(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"new": 1}))
    (copy / "exits.safetensors").unlink()
    own = by_name(checked(copy, status=1))["hashes"]
    assert own["measured"] == 2
    assert own["detail"] == "config.json has changed, exits.safetensors is missing"
    assert [o["name"] for o in checked(copy, "--no-hashes", "--max-params", "1M")["conditions"]] == [
        "max-params"
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"files": {"../secret": "0"}}', '{"files": 5}', '{"files": {}}'])
def test_a_damaged_report_is_not_measured(text: str, good: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    (tmp_path / "report.json").write_text(text)
    own = by_name(checked(tmp_path, status=3))["hashes"]
    assert (own["verdict"], own["measured"]) == ("not measured", None)


def test_a_run_of_finetune_records_hashes(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    words = ("--steps", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu", "--out", out)
    assert run("finetune", cifar_file, "--data", image_folder(), *words).exit_code == 0
    checked(out)


# Formats


def failing(bad: Path) -> tuple[object, ...]:
    return (bad, "--against", "demo", *SAMPLES, "--max-drop", 0.5, "--max-params", "1M", "--min-accuracy", 99.9)


def test_the_terminal(bad: Path) -> None:
    shown = run("check", *failing(bad))
    assert shown.exit_code == 1
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert re.search(r"max-drop +\d+\.\d\d points +\d.* to .* +<= 0\.50 +failed", shown.stdout)
    assert "Failed: 2 of 4 conditions hold, 2 failed." in shown.stdout


def test_annotations_and_a_step_summary(bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    shown = run("check", *failing(bad), "--format", "github")
    assert shown.exit_code == 1
    pattern = re.compile(r"::(notice|warning|error) title=[^:,\r\n]+::[^\r\n]+")
    assert [pattern.fullmatch(line)[1] for line in shown.stdout.splitlines()] == [  # pyright: ignore
        "notice",
        "error",
        "error",
        "notice",
    ]
    assert "%25" in shown.stdout
    text = summary.read_text()
    assert text.startswith("before\n### ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert len({row.count("|") for row in rows}) == 1
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    again = run("check", *failing(bad), "--format", "github")
    assert (again.exit_code, "cannot be written" in again.stderr) == (1, True)


def test_annotations_escape_what_would_end_them() -> None:
    assert annotation("error", "a:b,c\n50%", "x: 1,\r\n50%0A") == (
        "::error title=a%3Ab%2Cc%0A50%25::x: 1,%0D%0A50%250A"
    )


def test_what_cannot_be_checked_is_annotated_too() -> None:
    shown = run("check", "no,such:100%\n.pth", "--max-params", 5, "--format", "github")
    assert shown.exit_code == 3
    assert shown.stdout.startswith("::error title=resprune check::no,such:100%25\\n.pth: no such file")
    assert len(shown.stdout.splitlines()) == 1


def test_junit(bad: Path, image_folder: Callable[..., Path]) -> None:
    shown = run("check", *failing(bad), "--format", "junit")
    assert shown.exit_code == 1
    suites = ET.fromstring(shown.stdout.encode())
    (suite,) = suites
    assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["4", "2", "0", "0"]
    cases = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    passed, failed = ["system-out"], ["failure"]
    assert cases == {"hashes": passed, "max-drop": failed, "min-accuracy": failed, "max-params": passed}
    assert all(case.get("classname") for case in suite.iter("testcase"))
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "limit <= 0.50" in str(failure.get("message"))


def test_an_awkward_name_breaks_no_format(cifar_file: Path, tmp_path: Path) -> None:
    name = tmp_path / 'a<b>&"c"|d`e\x07\n%.pth'
    name.write_bytes(cifar_file.read_bytes())
    markdown = tmp_path / "comment.md"
    words = ("check", name, "--max-file-size", 5, "--markdown", markdown)
    suites = ET.fromstring(run(*words, "--format", "junit").stdout.encode())
    assert "a<b>&" in str(suites[0].get("name"))
    assert len(run(*words, "--format", "github").stdout.splitlines()) == 1
    row = next(line for line in markdown.read_text().splitlines() if "max-file-size" in line)
    assert row.replace("\\|", "").count("|") == 8


def test_metrics_are_flat_numbers(bad: Path, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    assert run("check", *failing(bad), "--metrics", path).exit_code == 1
    found = json.loads(path.read_text())
    assert all(isinstance(value, int | float) for value in found.values())
    printed = by_name(checked(*failing(bad), status=1))
    assert found["max_drop/measured"] == printed["max-drop"]["measured"]
    assert [found["max_drop/low"], found["max_drop/high"]] == printed["max-drop"]["interval"]
    assert (found["passed"], found["max_drop/passed"], found["max_params/passed"]) == (0, 0, 1)
    assert found["samples"] == 200


# Wrong use, and what cannot be measured


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo"], "nothing to check"),
        (["demo", "--max-drop", "1"], "name it with --against"),
        (["demo", "--max-macs", "0.5"], "--max-macs compares with another network"),
        (["FILE", "--min-accuracy", "90"], "--min-accuracy needs images; name some with --data"),
        (["FILE", "--against", "FILE", "--max-drop", "1"], "--max-drop needs images"),
        (["demo", "--min-accuracy", "0.9"], "in per cent, above 1 and at most 100, got 0.9; --min-accuracy 90"),
        (["demo", "--max-macs", "1.5"], "neither a count nor a fraction"),
        (["demo", "--max-file-size", "big"], "is no size"),
        (["demo", "--max-residual-tail", "1"], "one of them is missing"),
        (["demo", "--max-params", "5", "--confidence", "95"], "fraction from 0.5"),
        (["demo", "--max-params", "5", "--json", "--format", "junit"], "give one of them"),
        (["FILE", "--against", "demo", "--min-agreement", "90"], "different input"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, cifar_file: Path) -> None:
    assert words in refusal(2, "check", *(cifar_file if word == "FILE" else word for word in arguments))


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    assert "cannot be written" in refusal(
        3, "check", "demo", "--max-params", 5, "--metrics", tmp_path / "none" / "metrics.json"
    )


def test_images_without_labels_are_not_measured(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    flat = image_folder() / "class0"
    words = (cifar_file, "--against", cifar_file, "--data", flat, "--max-drop", 1, "--min-agreement", 99)
    found = by_name(checked(*words, status=3))
    assert [found[name]["verdict"] for name in ("max-drop", "min-agreement")] == ["not measured", "passed"]
    alone = checked(cifar_file, "--data", flat, "--min-accuracy", 50, status=3)
    assert by_name(alone)["min-accuracy"]["detail"] == "the images have no labels"
    # One that failed decides, whatever else could not be measured.
    checked(*words, "--max-params", 5, status=1)


def test_a_network_in_memory() -> None:
    chain = resprune.load("demo", device="cpu")
    wrapped = resprune.prune(chain, resprune.select(depth=7, blocks=16), samples=8, recover=False).chain
    outcome = resprune.check(wrapped, Limits(max_params=40_000), chain)
    assert outcome.verdict == "passed"


def test_numbers_on_the_command_line() -> None:
    assert _fraction("--min-accuracy", 90.15) == 1803 / 2000
    assert [_count("x", text) for text in ("500M", "1.2G", "750k", "1", "0.7")] == [5e8, 1.2e9, 7.5e5, 1, 0.7]
    assert [_bytes(text) for text in ("12", "500kB", "4.5MB", "4MiB", "1 KiB")] == [
        12,
        500_000,
        4_500_000,
        4 << 20,
        1024,
    ]
    for text in ("", "M", "nan", "inf", "-5", "0", "1e99", "5X", "0.5k5"):
        with pytest.raises(UsageError):
            _count("--max-macs", text)
