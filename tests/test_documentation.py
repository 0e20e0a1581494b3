"""Every command that the documentation shows is run, on small files that stand for the reader's.

These rules make it quick, and nothing else is changed:

- `ADDED` has options for some commands, and no command reads more than `FEW` images. Those options may do
  nothing; what the document itself shows may not.
- What a command would write is removed first: a document shows several ways to the same folder.
- A command ends with status 0, or with the one that its comment tells.
- A launcher before ``-m resprune`` is left out.
- Latency is measured in ten rounds, and exports are not read back: `test_exporting` does that.

What cannot be run is listed in `NOT_RUN`.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import documents
import pytest
import torch
import typer
from belongings import BELONGINGS, hand_over
from commands import run
from documents import Command, Snippet
from typer.core import TyperGroup

import resprune
from resprune import choosing, pipeline
from resprune.chain import ResidualChain
from resprune.cli import idle
from resprune.cli.app import app
from resprune.data import Batches
from resprune.exporting import formats
from resprune.reading import Data, batches_for
from resprune.records import ReadBack

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")
pytest.importorskip("matplotlib")

NOT_RUN = {
    "pip install": "installs packages; .ci/run does it in an environment of its own",
    "docker": "needs a Docker daemon, and the network",
    "pytest": "is what runs this",
    "ruff": "checks the source; .ci/run does it",
    "pyright": "likewise",
    "lint-imports": "likewise",
}
"""Beginnings of commands that are shown and not run -> why."""
ADDED = {
    "prune": "--samples 20",
    "finetune": "--samples 20 --epochs 1 --batch-size 4 --workers 0",
    "bench": "--seconds 0.1",
    "--frontier": "--no-recover",
    "--config": "--threads 1",
    "resnet50.pth": "--input-size 16",
}
"""Words of a command -> options that make it short; of an option given twice the last counts."""
FEW = 100
LANGUAGES = {"sh", "python", "text", "json", "yaml"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
WRITES = ("--out", "--report", "--plots", "--csv", "--parquet")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reader's folder; few images are read, measuring is brief, and `test_exporting` reads exports back."""
    monkeypatch.chdir(tmp_path)
    for name in ("measure", "block_prices"):
        monkeypatch.setattr(choosing, name, partial(getattr(choosing, name), rounds=10))
    monkeypatch.setattr(pipeline, "batches_for", few)
    unchecked = ReadBack(0.0, 0.0, "seeded noise", 0, (), new_process=False)
    monkeypatch.setattr(formats, "read_back", lambda written, seed=0: [unchecked] * len(written))
    torch.manual_seed(0)
    return tmp_path


def few(chain: ResidualChain, data: Data | None, **options: Any) -> Batches:
    return batches_for(chain, data, **(options | {"samples": min(options.get("samples") or FEW, FEW)}))


def is_run(command: Command) -> bool:
    return not any(shlex.split(command.text)[: len(words.split())] == words.split() for words in NOT_RUN)


@pytest.mark.exhaustive
@pytest.mark.parametrize("document", [name for name in documents.NAMES if documents.snippets(name)])
def test_what_a_document_shows_runs(document: str, store: Path, place: Path) -> None:
    space: dict[str, Any] = {"__name__": "documentation"}
    for snippet in documents.snippets(document):
        if snippet.language == "sh":
            for command in documents.commands(snippet):
                if is_run(command):
                    run_command(command, store, place)
        elif snippet.language == "python":
            run_python(snippet, store, place, space)


def run_command(command: Command, store: Path, place: Path) -> None:
    words = shlex.split(command.text)
    if "-m" in words and words[words.index("-m") + 1] == "resprune":
        words = words[words.index("-m") + 1 :]
    assert words[0] == "resprune", f"{command}: not run, and not in NOT_RUN"
    target = None
    if ">" in words:
        *words, _, target = words
    written = {words[i + 1] for i, word in enumerate(words[:-1]) if word in WRITES}
    for name in written:
        shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink(missing_ok=True)
    provide([word for word in words if word not in written], store, place)
    added = [word for name, more in ADDED.items() if name in words for word in more.split()]
    shown = {word.removeprefix("--").replace("-", "_") for word in words}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idle, "typed", lambda name, typed=idle.typed: name in shown and typed(name))
        done = run(*words[1:], *added)
    assert done.exit_code == command.status, f"{command}\n{done.output}{done.exception!r}"
    assert all((place / name).exists() for name in written), command
    if target is not None:
        (place / target).write_text(done.stdout, encoding="utf-8")


def run_python(snippet: Snippet, store: Path, place: Path, space: dict[str, Any]) -> None:
    tree = ast.parse(snippet.text)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    provide([text for text in texts if isinstance(text, str)], store, place)
    # The lines of a traceback are the document's.
    ast.increment_lineno(tree, snippet.line - 1)
    exec(compile(tree, snippet.document, "exec"), space)


def provide(words: list[str], store: Path, place: Path) -> None:
    """Give the reader what is named and not there yet: an earlier command may have made it."""
    for name in {word.rstrip("/") for word in words} & BELONGINGS.keys():
        if not (place / name).exists():
            hand_over(name, store, place)
            if name.endswith(".yaml"):
                given = re.findall(r"(\w+):\s*(\S+)$", (place / name).read_text(), re.MULTILINE)
                made = {value for key, value in given if key == "out"}
                provide([value for _, value in given if value not in made], store, place)


def test_the_lists_of_these_tests_hold_nothing_that_is_gone() -> None:
    shown = documents.shell_commands()
    assert len(shown) > 30
    for words in NOT_RUN:
        assert any(command.text.startswith(words) for command in shown), words
    text = "\n".join(snippet.text for name in documents.NAMES for snippet in documents.snippets(name))
    for name in (*ADDED, *BELONGINGS):
        assert re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])", text), name


@pytest.mark.parametrize("document", documents.NAMES)
def test_every_block_has_a_language_and_every_link_a_target(document: str) -> None:
    assert {snippet.language for snippet in documents.snippets(document)} <= LANGUAGES
    path = documents.ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", documents.read(document)):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.exists(), link
            headings = (
                re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            )
            assert not anchor or anchor in map(anchor_of, headings), link


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", documents.NAMES)
def test_every_option_that_a_document_names_exists(document: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    options = {name: options_of(command) for name, command in group.commands.items()}
    others = {"--help", "--version"}
    others |= {"--rm", "--build-arg", "--gpus", "--user", "--read-only", "--tmpfs", "--network", "--cap-drop"}
    others |= {"--nproc-per-node", "--index-url"}  # of torchrun and pip
    known = others.union(*options.values())
    lines = documents.read(document).splitlines()
    named = {name for line in lines if "python benchmarks/" not in line for name in OPTION.findall(line)}
    assert named <= known
    for span in re.findall(r"`([^`\n]+)`", documents.read(document)):
        words = span.removeprefix("resprune ").split()
        if words and words[0] in options:
            assert set(OPTION.findall(span)) <= options[words[0]] | {"--help"}, span


def options_of(command: Any) -> set[str]:
    found = {name for own in command.params for name in (*own.opts, *own.secondary_opts)}
    assert "--debug" in found
    return found


def test_every_public_name_is_documented_and_used() -> None:
    text = documents.read("docs/python.md")
    code = "".join(snippet.text for snippet in documents.snippets("docs/python.md"))
    for name in resprune.__all__:
        assert f"`resprune.{name}" in text, name
    elsewhere = {
        "Analysis",
        "Choice",
        "Finetuned",
        "Frontier",
        "Preprocessing",
        "Pruned",
        "__version__",
        "wrap",
    }
    assert {name for name in resprune.__all__ if f"resprune.{name}" not in code} == elsewhere


def test_the_index_lists_every_document() -> None:
    listed = set(re.findall(r"\]\((\w+\.md)\)", documents.read("docs/README.md")))
    assert listed == {path.name for path in (documents.ROOT / "docs").glob("*.md")} - {"README.md"}
