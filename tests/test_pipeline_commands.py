"""A build from fine-tuning to the gate, by its configuration, in processes of their own, as CI runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from schemas import assert_valid

CONFIG = """
finetune:
  checkpoint: demo
  steps: 2
  batch-size: 16
  samples: 64
  hold-out: 0.5
  seed: 5
  log-format: json
  out: tuned
prune:
  checkpoint: tuned
  data: demo
  samples: 48
  depth: 7
  heal-steps: 1
  out: pruned
check:
  checkpoint: pruned
  against: tuned
  data: demo
  samples: 48
  max-drop: 20
  max-loss-increase: 2
  min-agreement: 50
  max-macs: "0.5"
  max-params: 40k
  max-file-size: 500kB
  max-residual-tail: 10
  tail-from: 5
"""
PASSING = ["--format", "github", "--markdown", "comment.md", "--metrics", "metrics.json"]
FAILING = ["--max-macs", "0.4", "--min-accuracy", "99.9", "--strict"]
UNMEASURED = ["check", "pruned", "--data", "unlabelled", "--min-accuracy", "50", "--max-params", "40k"]
ANNOTATION = re.compile(r"::(notice|warning|error) title=([^:,\r\n]+)::((?:[^%\r\n]|%25|%0D|%0A)+)")
SCHEMA = Path(__file__).with_name("junit.xsd")
METRIC = re.compile(r"(against/)?[a-z]+(_[a-z]+)*(/(measured|limit|low|high|passed))?")


class Build:
    """A folder in which command lines run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary = folder / "summary.md"

    def start(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GITHUB_STEP_SUMMARY": str(self.summary)}
        command = [sys.executable, "-W", "error", "-m", "resprune", *words]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=240
        )

    def __call__(self, status: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line that ends with a status, and without a traceback."""
        done = self.start(*words)
        assert done.returncode == status, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done


@pytest.mark.exhaustive
def test_a_whole_build(tmp_path: Path) -> None:
    """Status 0, 1, 2 and 3, and every format against its schema."""
    (tmp_path / "resprune.yaml").write_text(CONFIG)
    (tmp_path / "summary.md").write_text("what an earlier step said\n")
    (tmp_path / "unlabelled").mkdir()
    for index in range(4):
        pixels = np.full((28, 28), 60 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "unlabelled" / f"{index}.png")
    run = Build(tmp_path)
    config = ["--config", "resprune.yaml"]

    tuned = run(0, "finetune", *config, "--json")
    made = [json.loads(tuned.stdout), json.loads(run(0, "prune", *config, "--json").stdout)]
    lines = [
        (0, "check", *config, *PASSING),
        (1, "check", *config, *FAILING, "--format", "junit"),
        (1, "check", *config, *FAILING, "--json"),
        (3, *UNMEASURED, "--format", "junit"),
        (2, "check", "pruned", "--max-drop", "1", "--format", "github"),
        (2, "check", "pruned", "--max-dorp", "1"),
        *((0, "schema", name) for name in ("finetune", "prune", "check")),
    ]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda line: run(*line), lines))
    passed, failed, told, unmeasured, misused, misspelt, *schemas = done

    check_messages(tuned.stderr)
    check_json(tmp_path, [*made, json.loads(told.stdout)], [json.loads(own.stdout) for own in schemas])
    check_provenance(tmp_path, json.loads(told.stdout))
    levels = check_annotations(passed.stdout)
    assert set(levels) == {"hashes", *verdicts(told)} - {"min-accuracy"}
    assert set(levels.values()) == {"notice"}
    check_markdown((tmp_path / "comment.md").read_text(), run.summary.read_text(), len(levels))
    check_metrics(json.loads((tmp_path / "metrics.json").read_text()), levels)
    assert verdicts(told)["max-macs"] == verdicts(told)["min-accuracy"] == "failed"
    assert outcomes(failed.stdout) == verdicts(told)
    # The hashes hold; of images without labels no accuracy is known.
    assert outcomes(unmeasured.stdout) == {
        "hashes": "passed",
        "min-accuracy": "not measured",
        "max-params": "passed",
    }
    found = ANNOTATION.fullmatch(misused.stdout.removesuffix("\n"))
    assert found is not None
    assert (found[1], f"resprune: {found[3]}\n") == ("error", misused.stderr)
    assert misspelt.stdout == ""
    assert "--max-drop" in misspelt.stderr
    check_junit(failed.stdout, unmeasured.stdout)  # last, as it needs a library


def check_messages(stderr: str) -> None:
    """``--log-format json``: an object a line."""
    lines = [json.loads(line) for line in stderr.splitlines()]
    assert [line["level"] for line in lines] == ["info"] * len(lines)
    assert all(line["message"] for line in lines)
    assert sum("epoch" in line["message"] for line in lines) == 2
    assert {line["progress"]["done"] for line in lines if "progress" in line} == {0, 32}


def check_json(folder: Path, printed: list[dict[str, Any]], schemas: list[dict[str, Any]]) -> None:
    """All that is printed and written as JSON, against what ``resprune schema`` prints."""
    written = [json.loads((folder / name / "report.json").read_text()) for name in ("tuned", "pruned")]
    epochs = (folder / "tuned" / "metrics.jsonl").read_text().splitlines()
    for found in [*printed, *written, *map(json.loads, epochs)]:
        named = [own for own in schemas if own["properties"]["schema"] == {"const": found["schema"]}]
        assert len(named) == 1
        Draft202012Validator(named[0]).validate(found)
        assert_valid(found)  # nor is there a key that is not described
    assert [found["schema"].split("/")[1] for found in printed] == ["finetune", "prune", "check"]


def check_provenance(folder: Path, checked: dict[str, Any]) -> None:
    """Every result says what it came from, and the next one says the same of it."""
    tuned, pruned = (json.loads((folder / name / "report.json").read_text()) for name in ("tuned", "pruned"))
    assert pruned["checkpoint"]["sha256"] == tuned["files"]["model.safetensors"]
    assert checked["checkpoint"]["sha256"] == pruned["files"]["model.safetensors"]
    assert checked["against"]["checkpoint"]["sha256"] == pruned["checkpoint"]["sha256"]
    assert tuned["made"]["seed"] == 5
    for found in (tuned, pruned, checked):
        assert re.fullmatch("[0-9a-f]{64}", found["data"]["sha256"])
        made = found["made"]
        assert made["command"].startswith(f"resprune {found['schema'].split('/')[1]} --config resprune.yaml")
        assert made["versions"].keys() >= {"python", "torch", "timm"}
        assert made["config"]["sha256"] == tuned["made"]["config"]["sha256"]
    assert len({found["data"]["sha256"] for found in (tuned, pruned, checked)}) == 1


def check_annotations(stdout: str) -> dict[str, str]:
    """Check that there is nothing else; returns the level of every condition."""
    levels = {}
    for line in stdout.splitlines():
        found = ANNOTATION.fullmatch(line)
        assert found is not None, line
        name = re.fullmatch(r"resprune check%3A ([a-z-]+) passed", found[2])
        assert name is not None, line
        levels[name[1]] = found[1]
    return levels


def check_markdown(comment: str, summary: str, conditions: int) -> None:
    assert summary == f"what an earlier step said\n{comment}\n"
    title, _, subject, _, *rows, _, rule = comment.splitlines()
    assert title == "### ✅ resprune check: passed"
    assert subject.startswith("pruned against tuned, 48 images")
    assert rule.startswith("A condition fails where")
    cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in rows]
    assert {len(row) for row in cells} == {7}
    assert all(re.fullmatch(":?-+:?", cell) for cell in cells[1])
    assert len(rows) == 2 + conditions


def check_metrics(found: dict[str, Any], conditions: dict[str, str]) -> None:
    assert all(METRIC.fullmatch(name) for name in found), found
    assert all(type(value) in (int, float) for value in found.values())
    for name in conditions:
        own = name.replace("-", "_")
        assert found[f"{own}/passed"] == 1
        assert found[f"{own}/measured"] is not None
    assert found["passed"] == 1


def verdicts(checked: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return the verdict on every condition of ``check --json``."""
    return {own["name"]: own["verdict"] for own in json.loads(checked.stdout)["conditions"]}


def outcomes(junit: str) -> dict[str, str]:
    """Return what JUnit XML says of every condition; its counts have to be those of the outcomes."""
    suites = ET.fromstring(junit.encode())
    (suite,) = suites
    words = {"failure": "failed", "error": "not measured", "system-out": "passed"}
    found = {str(case.get("name")): words[case[0].tag] for case in suite.iter("testcase")}
    verdicts = list(found.values())
    counts = (len(verdicts), verdicts.count("failed"), verdicts.count("not measured"))
    for element in (suites, suite):
        assert tuple(int(str(element.get(name))) for name in ("tests", "failures", "errors")) == counts
    return found


def check_junit(*documents: str) -> None:
    xmlschema = pytest.importorskip("xmlschema")
    schema = xmlschema.XMLSchema(SCHEMA)
    for document in documents:
        schema.validate(xmlschema.XMLResource(document.encode(), allow="none"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('errors="0"', 'errors="none"'),
        ("<system-out/>", "<outcome/>"),
        ("<system-out/>", '<failure message="a" type="b"/><error message="a" type="b"/>'),
        ("<system-out/>", "<failure/>"),
        ('name="two"', 'name="one"'),
        ('classname="c" name="two"', 'name="two"'),
    ],
)
def test_the_schema_of_junit_refuses(before: str, after: str) -> None:
    xmlschema = pytest.importorskip("xmlschema")
    schema = xmlschema.XMLSchema(SCHEMA)
    counts = 'tests="2" failures="0" errors="0"'
    cases = '<testcase classname="c" name="one"/><testcase classname="c" name="two"><system-out/></testcase>'
    good = f'<testsuites {counts}><testsuite name="s" skipped="0" {counts}>{cases}</testsuite></testsuites>'
    assert schema.is_valid(good)
    assert before in good
    assert not schema.is_valid(good.replace(before, after))
