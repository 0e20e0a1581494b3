"""Messages on stderr: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FLAG = "--log-format"
EVERY = 5.0
"""Seconds between two lines of progress."""

stderr = Console(stderr=True, highlight=False)
_log = logging.getLogger("resprune")
_log.setLevel(logging.INFO)


class Format(StrEnum):
    """How messages are written."""

    TEXT = "text"
    JSON = "json"


class _JsonLine(logging.Formatter):
    """A record as one JSON object: time (UTC), level, message, and what else the record has."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage().strip(),
        }
        return json.dumps(line | getattr(record, "more", {}))


_handlers: list[logging.Handler] = []
"""At most one; none means text."""


@contextmanager
def written_as(wanted: Format) -> Iterator[None]:
    """Write messages so meanwhile; as JSON those of libraries and their warnings too."""
    if wanted is Format.TEXT or _handlers:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine())
    _handlers.append(handler)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)
        _handlers.clear()


def wanted(words: Sequence[str]) -> Format:
    """Return the format that a command line asks for, unparsed: what the parser says is a message too."""
    pairs = pairwise([*words, ""])
    found = any(word == f"{FLAG}=json" or (word, after) == (FLAG, "json") for word, after in pairs)
    return Format.JSON if found else Format.TEXT


def say(message: str, level: int = logging.INFO) -> None:
    """Tell the user something that is no result."""
    if _handlers:
        _log.log(level, "%s", message)
    else:
        stderr.print(message, markup=False, soft_wrap=True)


def complain(message: str, status: int) -> None:
    """Say why a command ends, and with which exit status."""
    if _handlers:
        _log.error("%s", message, extra={"more": {"status": status}})
    else:
        print(f"resprune: {message}", file=sys.stderr)


@contextmanager
def progress(description: str, images: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the remaining time on stderr, where that is a terminal; or lines for machines."""
    if _handlers:
        with _lines(description, images) as on_batch:
            yield on_batch
        return
    if not stderr.is_terminal:
        yield lambda done: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} images"),
        TimeElapsedColumn(),
        TextColumn("remaining"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(description, total=images)
        yield lambda done: bar.advance(task, done)


@contextmanager
def _lines(description: str, images: int) -> Iterator[Callable[[int], None]]:
    """Write a line at the beginning and the end, and every few seconds between."""
    done, told = 0, time.monotonic()

    def tell() -> None:
        more: dict[str, Any] = {"progress": {"task": description, "done": done, "total": images}}
        _log.info("%s: %d of %d images", description, done, images, extra={"more": more})

    def on_batch(seen: int) -> None:
        nonlocal done, told
        done += seen
        if done < images and time.monotonic() - told > EVERY:
            told = time.monotonic()
            tell()

    tell()
    yield on_batch
    tell()
