"""Pages and plots on disk: whole or not at all, and nothing is replaced that is not a report's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from resprune.errors import OutputError
from resprune.records import FrontierStudy, Study
from resprune.report import page, plots

_BEGINNING = "<!DOCTYPE html>"
_KINDS = (".svg", ".png")


def check(file: Path | None, folder: Path | None, *, force: bool) -> None:
    """Check, before anything is computed, that a page and a folder of plots can be made.

    Args:
        file: Of the page; None for none.
        folder: Of the plots; None for none.
        force: Whether existing ones may be replaced, if they are a page and a folder of plots.

    Raises:
        UsageError: where matplotlib or jinja2 is missing.
        OutputError: where something exists that may not be replaced.
    """
    if file is None and folder is None:
        return
    page.check_extra()
    try:
        if file is not None and (file.exists() or file.is_symlink()):
            _check_page(file, force)
        if folder is not None and (folder.exists() or folder.is_symlink()):
            _check_plots(folder, force)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", where=file or folder) from error


def write(
    studies: Sequence[Study | FrontierStudy], file: Path | None, folder: Path | None, *, force: bool
) -> list[Path]:
    """Write a page and a folder of plots as SVG and PNG; returns what was written.

    Args:
        studies: What to show.
        file: Of the page; None for none.
        folder: Of the plots; None for none.
        force: See `check`.

    Raises:
        UsageError, OutputError: see `check`.
    """
    check(file, folder, force=force)
    text = None if file is None else page.render(studies)
    drawn: dict[str, bytes] = {}
    if folder is not None:
        for plot in plots.plots(studies):
            drawn |= {f"{plot.name}.svg": plot.svg().encode(), f"{plot.name}.png": plot.png()}
    written: list[Path] = []
    if folder is not None:
        _replace_folder(folder, drawn)
        written.append(folder)
    if file is not None and text is not None:
        _replace_file(file, text)
        written.append(file)
    return written


def _check_page(file: Path, force: bool) -> None:
    if file.is_dir():
        raise OutputError("is a folder, not a file", where=file, hint="give a file name, such as report.html")
    if not force:
        raise OutputError("exists already", where=file, hint="add --force to replace it")
    with file.open("rb") as opened:
        if opened.read(len(_BEGINNING)) != _BEGINNING.encode():
            raise OutputError("is no HTML page, so it is not replaced", where=file, hint="choose another name")


def _check_plots(folder: Path, force: bool) -> None:
    if folder.is_symlink() or not folder.is_dir():
        raise OutputError("is no folder", where=folder, hint="give a folder for the plots")
    entries = list(folder.iterdir())
    if any(entry.suffix not in _KINDS or not entry.is_file() for entry in entries):
        raise OutputError(
            "holds other things than plots, so it is not replaced", where=folder, hint="choose another --plots"
        )
    if entries and not force:
        raise OutputError("exists already", where=folder, hint="add --force to replace it")


def _replace_folder(folder: Path, content: dict[str, bytes]) -> None:
    target = folder.absolute()
    draft = target.with_name(f".{target.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        for name, data in content.items():
            (draft / name).write_bytes(data)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", where=folder) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace_file(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", where=file) from error
    finally:
        with suppress(OSError):
            draft.unlink()
