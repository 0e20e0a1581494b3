"""The shell around every command: errors, signals, progress, printing."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from resprune.errors import ResPruneError

stderr = Console(stderr=True, highlight=False)


@contextmanager
def command(
    debug: bool, *, threads: int | None = None, interrupted: str = "nothing was written"
) -> Iterator[None]:
    """Run a command's body: one line for what the user can mend, status 130 and 143 for being stopped.

    Args:
        debug: Let errors through with their traceback.
        threads: CPU threads that torch may use.
        interrupted: What is left after an interruption.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        yield
    except ResPruneError as error:
        if debug:
            raise
        print(f"resprune: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_status) from error
    except KeyboardInterrupt as error:
        print(f"resprune: interrupted, {interrupted}", file=sys.stderr)
        raise typer.Exit(130) from error


def _terminate(number: int, frame: object) -> None:
    # As an exception, so that drafts are removed on the way out.
    raise SystemExit(128 + number)


@contextmanager
def progress(description: str, images: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the remaining time on stderr, where that is a terminal."""
    if not stderr.is_terminal or not is_main_process():
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


def is_main_process() -> bool:
    """Whether this is the process of a launcher's that speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Tell the user something that is no result."""
    stderr.print(message, markup=False, soft_wrap=True)


def advise(message: str) -> None:
    """Tell the user what to do next, where there is something."""
    if message:
        say(message)


def show(result: RenderableType) -> None:
    """Print a result; its names are the user's and no markup."""
    Console(highlight=False, markup=False).print(result)


def print_text(text: str) -> None:
    """Print text as it is, however wide."""
    sys.stdout.write(text + "\n")


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
