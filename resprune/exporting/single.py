"""Exports that are one file: written whole or not at all, and nothing of the user's is replaced."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resprune.placing import drafted, refuse

SCHEMA = "resprune/export/1"
"""In the metadata of every file that is exported, as it is written: a file with it may be replaced."""


def refuse_existing_file(path: Path, force: bool) -> None:
    """Check, before anything is computed, that a file may be written.

    Raises:
        OutputError: where it exists and ``force`` is off, or it is no file that resprune exported.
    """
    refuse(path, force, _is_ours, "export")


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(SCHEMA.encode()) >= 0


@contextmanager
def file_or_nothing(path: Path, force: bool) -> Iterator[Path]:
    """Yield a file's name in a hidden folder; it moves to the target when the block ends without an error.

    Raises:
        OutputError: where the target exists, or nothing can be written there.
    """
    refuse_existing_file(path, force)
    with drafted(path) as draft:
        yield draft / path.name
        (draft / path.name).replace(path.absolute())
