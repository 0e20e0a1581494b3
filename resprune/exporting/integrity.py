"""Whether an output folder still holds the files that were written into it."""

from __future__ import annotations

import json
from pathlib import Path

from resprune.checkpoint import CONFIG_FILE, EXITS_FILE, WEIGHTS_FILE
from resprune.errors import OutputError
from resprune.exporting.folder import REPORT_FILE
from resprune.formats import sha256

_HASHED = {WEIGHTS_FILE, EXITS_FILE, CONFIG_FILE}


def recorded(folder: Path) -> dict[str, str] | None:
    """Return the SHA-256 of a folder's files as its report has them, by name.

    None where there is no report, or one that was written without them.

    Raises:
        OutputError: where the report is damaged.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        files = report.get("files")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"the report is damaged ({type(error).__name__})", where=path, hint="write the folder again"
        ) from error
    if files is None:
        return None
    # Names that were never hashed could point anywhere.
    if not isinstance(files, dict) or not files or not files.keys() <= _HASHED:
        raise OutputError(
            "the report names no files of a folder of resprune's", where=path, hint="write the folder again"
        )
    return files


def differing(folder: Path, files: dict[str, str]) -> tuple[str, ...]:
    """Return what is not as it was recorded, in words: files that changed, are missing, or were not there."""
    found = []
    for name in sorted(_HASHED):
        path = folder / name
        if not path.is_file():
            if name in files:
                found.append(f"{name} is missing")
        elif name not in files:
            found.append(f"{name} was not there")
        elif sha256(path) != files[name]:
            found.append(f"{name} has changed")
    return tuple(found)
