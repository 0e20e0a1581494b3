"""Pages and plots on disk: whole or not at all, and nothing is replaced that is not a report's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from resprune.errors import OutputError
from resprune.placing import check_access, placed, unwritable, write_text
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
        OutputError: where something exists that may not be replaced, or nothing may be written.
    """
    if file is None and folder is None:
        return
    page.check_extra()
    for path, refuse in ((file, _check_page), (folder, _check_plots)):
        if path is not None:
            check_access(path)
            try:
                if path.exists() or path.is_symlink():
                    refuse(path, force)
            except OSError as error:
                raise unwritable(path, error) from error


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
        with placed(folder) as draft:
            for name, data in drawn.items():
                (draft / name).write_bytes(data)
        written.append(folder)
    if file is not None and text is not None:
        with suppress(OSError):  # told of by what comes next
            file.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
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
