"""The shell around every command: errors, signals, progress, printing."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType

from resprune.cli import messages, stopping
from resprune.errors import OutputError, ResPruneError, UsageError
from resprune.placing import marks

PIPE_CLOSED = 128 + getattr(signal, "SIGPIPE", 13)  # Windows has none
"""What a shell reports of a program whose reader is gone."""


@contextmanager
def command(
    debug: bool,
    *,
    threads: int | None = None,
    outputs: Iterable[Path | None] = (),
    goes_on: str = "",
) -> Iterator[None]:
    """Run a command's body: one line for what the user can mend, status 130 and 143 for being stopped.

    Args:
        debug: Let errors through with their traceback.
        threads: CPU threads that torch may use.
        outputs: Files and folders that it writes, each whole or not at all; a stop tells which are there.
        goes_on: Told instead of them, where a command that was stopped can go on.
    """
    wanted = [path for path in outputs if path is not None]
    before = {path: marks(path) for path in wanted}

    def left() -> str:
        written = [str(path) for path, was in before.items() if marks(path) != was]
        return goes_on or (f"written already: {', '.join(written)}" if written else "nothing was written")

    try:
        with stopping.stoppable():
            if threads is not None:
                import torch

                torch.set_num_threads(threads)
            _check_apart(wanted)
            yield
    except ResPruneError as error:
        if debug:
            raise
        messages.complain(str(error), error.exit_status)
        raise typer.Exit(error.exit_status) from error
    except OSError as error:
        if debug or _has_scratch():
            raise
        messages.complain("no temporary folder can be written; set TMPDIR to one, or mount one at /tmp", 3)
        raise typer.Exit(3) from error
    except (RuntimeError, MemoryError) as error:
        told = "" if isinstance(error, typer.Exit) else _told(error)
        if debug or not told:
            raise
        messages.complain(told, 3)
        raise typer.Exit(3) from error
    except KeyboardInterrupt as error:
        messages.complain(f"interrupted, {left()}", 130)
        raise typer.Exit(130) from error
    except stopping.Terminated:
        messages.complain(f"terminated, {left()}", 128 + signal.SIGTERM)
        raise


def _check_apart(outputs: Iterable[Path]) -> None:
    """Refuse to write one file or folder over another; pipes and devices take any number."""
    seen = set[Path]()
    for path in outputs:
        place = path.absolute()
        if place in seen and (not path.exists() or path.is_file() or path.is_dir()):
            raise UsageError("is named as two outputs", where=path, hint="give each a name of its own")
        seen.add(place)


def _has_scratch() -> bool:
    """Whether there is a temporary folder, without which torch and matplotlib cannot even be imported."""
    try:
        return bool(tempfile.gettempdir())
    except OSError:
        return False


def _told(error: RuntimeError | MemoryError) -> str:
    """Return what is told of errors that are the machine's; empty for others."""
    from resprune.memory import is_out_of_memory

    if is_out_of_memory(error):
        return "out of memory; lower --batch-size, or use another --device"
    if "DataLoader worker" in str(error):  # torch's words, wherever the main process is
        return "a process that read images has ended (out of memory?); lower --workers"
    return ""


@contextmanager
def progress(description: str, images: int) -> Iterator[Callable[[int], None]]:
    """Show how far a pass over images is; see `messages.progress`."""
    if not is_main_process():
        yield lambda done: None
        return
    with messages.progress(description, images) as on_batch:
        yield on_batch


def is_main_process() -> bool:
    """Whether this is the process of a launcher's that speaks for all of them."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Tell the user something that is no result."""
    messages.say(message)


def advise(message: str) -> None:
    """Tell the user what to do next, where there is something."""
    if message:
        messages.say(message, logging.WARNING)


def show(result: RenderableType) -> None:
    """Print a result; its names are the user's and no markup."""
    # Rendered first, as a console has its own way with a stdout that cannot be written.
    page = StringIO()
    terminal = sys.stdout is not None and sys.stdout.isatty()
    Console(file=page, force_terminal=terminal, highlight=False, markup=False).print(result, crop=False)
    _write(page.getvalue())


def print_text(text: str) -> None:
    """Print text as it is, however wide."""
    _write(text + "\n")


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object."""
    _write(json.dumps(result, indent=2, allow_nan=False) + "\n")


def _write(text: str) -> None:
    """Write to stdout at once, where an error can still be told.

    Raises:
        OutputError: where it is full or closed, or cannot be written for another reason.
        typer.Exit: quietly, where nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError as error:
        _write(text.encode(error.encoding, "replace").decode(error.encoding))
    except OSError as error:
        forget_output()
        if error.errno == errno.EPIPE:
            raise typer.Exit(PIPE_CLOSED) from error
        raise _unwritable(error.strerror or str(error)) from error
    except (AttributeError, ValueError) as error:  # None, or closed
        raise _unwritable("it is closed") from error


def forget_output() -> None:
    """Drop what stdout could not take: it would fail once more when the interpreter ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _unwritable(reason: str) -> OutputError:
    return OutputError(
        f"cannot be written ({reason})", where="standard output", hint="send it to another place"
    )
