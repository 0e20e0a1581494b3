"""The command ``report``, and what ``analyze`` shares with it. Nothing here needs torch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from resprune.cli import config, options, shell
from resprune.errors import OutputError, UsageError, printable
from resprune.placing import check_access


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="A.json", help="What analyze --json or prune --frontier --json printed.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML page to write.", show_default=False)
    ] = None,
    plots: options.Plots = None,
    force: options.ForceReport = False,
    debug: options.Debug = False,
) -> None:
    """Show analyses on one HTML page that needs nothing else, several of them over one another."""
    with shell.command(debug, outputs=(out, plots)):
        if out is None and plots is None:
            raise UsageError("nothing to write", hint="name a page with --out, or a folder with --plots")
        check(out, plots, force=force)
        from resprune.report import files, reading

        names = reading.names_of(results)
        studies = [reading.read(path, name) for path, name in zip(results, names, strict=True)]
        tell(files.write(studies, out, plots, force=force))


def check(file: Path | None, folder: Path | None, *, force: bool) -> None:
    """Check before any work that a page and plots can be made; see `resprune.report.files.check`."""
    if file is not None or folder is not None:
        from resprune.report import files

        files.check(file, folder, force=force)
    elif force:
        raise UsageError("--force replaces a page or plots, and none are written", hint="add --report FILE")


def check_files(*wanted: tuple[Path | None, str], data: str | None = None) -> None:
    """Refuse, before anything is measured, files that cannot be written, or that hold something else.

    Args:
        wanted: Each with the ending of its kind: what is there already is replaced only where it ends so.
        data: The images' spec, which may be a file.

    Raises:
        OutputError: names the first.
    """
    for path, ending in wanted:
        if path is None:
            continue
        folder = path.absolute().parent
        if path.is_dir() or not folder.is_dir():
            missing = f"{folder.name} is a file" if folder.exists() else "its folder does not exist"
            reason = "is a folder" if path.is_dir() else missing
            raise OutputError(f"cannot be written ({reason})", where=path, hint="give a file in a folder")
        if path.is_file() or not path.exists():  # pipes and devices are written to as they are
            check_access(path)
        if path.is_file() and path.stat().st_size and path.suffix.lower() != ending:
            raise OutputError(
                "is there already, and may be something else",
                where=path,
                hint=f"give a new name; files ending in {ending} are replaced",
            )
        if data is not None and _is_same(path, data):
            raise OutputError("holds the images that are read", where=path, hint="give another name")


def _is_same(path: Path, other: str) -> bool:
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there, or no path
        return False


def check_bounds(*, bounds: bool, sub: str | None, gamma: float | None, branch_decay: float | None) -> None:
    """Check that bounds are asked for with all they need.

    Raises:
        UsageError: where one option lacks the other.
    """
    if bounds and sub is None:
        raise UsageError("--bounds needs a SubResNet", hint="name its checkpoint with --sub")
    given = {"--sub": sub, "--gamma": gamma, "--lambda": branch_decay}
    flags = [flag for flag, value in given.items() if value is not None]
    if flags and not bounds:
        raise UsageError(f"{flags[0]} is for bounds, which were not asked for", hint="add --bounds")


def write(
    results: Sequence[tuple[dict[str, Any], str]], file: Path | None, folder: Path | None, *, force: bool
) -> list[Path]:
    """Write page and plots of results that are not on disk; each has a name."""
    if file is None and folder is None:
        return []
    from resprune.report import files, reading

    studies = [reading.result(content, name) for content, name in results]
    return files.write(studies, file, folder, force=force)


def name_of(checkpoint: str) -> str:
    """Return a short name of a checkpoint, for legends."""
    return printable(Path(checkpoint).stem or checkpoint)


def tell(written: Sequence[Path | None]) -> None:
    """Print what was written; None was not asked for."""
    for path in written:
        if path is not None:
            shell.print_text(f"Written: {path}")


def made(seed: int) -> dict[str, Any]:
    """Return how the result of the command that is running was made."""
    import torch

    from resprune.report.results.outputs import made

    used = config.used.get()
    file = None
    if used is not None:
        file = {"file": str(used.file), "sha256": used.sha256, "options": dict(used.options)}
    command = shlex.join(["resprune", *sys.argv[1:]])
    return made(command, seed, threads=torch.get_num_threads(), config=file)
