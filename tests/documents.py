"""What the documentation shows: its fenced blocks, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A fenced block.

    Attributes:
        document: Its file, relative to the root.
        line: Of its first line, from 1.
        language: As the fence says; empty without one.
        text: Of the block.
    """

    document: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a shell block, without its comment.

    Attributes:
        document, line: Where it stands.
        text: As it would be typed.
        status: That it ends with; another than 0 is in the comment, as ``status 1``.
    """

    document: str
    line: int
    text: str
    status: int = 0


def read(document: str) -> str:
    """Return a document's text."""
    return (ROOT / document).read_text(encoding="utf-8")


def snippets(document: str) -> list[Snippet]:
    """Return the fenced blocks of a document, in turn."""
    text = read(document)
    return [
        Snippet(document, text.count("\n", 0, found.start(3)) + 1, found[2], found[3])
        for found in _FENCE.finditer(text)
    ]


def commands(snippet: Snippet) -> list[Command]:
    """Return the commands of a shell block: one a line, or several joined by ``&&``."""
    found: list[Command] = []
    begun, start = "", 0
    for number, line in enumerate(snippet.text.splitlines(), snippet.line):
        start = start if begun else number
        begun += line
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        plain = re.sub(r"(^|\s)#.*", "", begun)
        told = re.search(r"\s#.*\bstatus (\d)", begun)
        where = (snippet.document, start)
        status = int(told[1]) if told else 0
        found += [Command(*where, part.strip(), status) for part in plain.split("&&") if part.strip()]
        begun = ""
    assert not begun, f"{snippet.document}:{start}: a command that does not end"
    return found


def shell_commands() -> list[Command]:
    """Return the commands of all documents."""
    return [
        command
        for document in NAMES
        for snippet in snippets(document)
        if snippet.language == "sh"
        for command in commands(snippet)
    ]
