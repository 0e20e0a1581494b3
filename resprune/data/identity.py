"""Which images were read, as a hash that is the same wherever they lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from resprune.errors import DataError
from resprune.formats import sha256

MOST_BYTES = 128 << 20
"""Up to so many the files are read for their hash; of more only names and sizes count."""
WHOLE, BY_SIZE = "names and bytes", "names and sizes"


def identify(files: Sequence[Path]) -> tuple[str, str]:
    """Return the SHA-256 of a split's files, and of what it is: `WHOLE`, or `BY_SIZE` where they are large.

    Hashed are lines ``<size> <SHA-256 of the bytes, or -> <name>``, one a file in their order; names are below
    the last folder that is common to all.

    Args:
        files: In the split's order; of none at all nothing is known, and both texts are empty.

    Raises:
        DataError: where one cannot be read.
    """
    if not files:
        return "", ""
    try:
        known = tuple(_known(file) for file in files)
        whole = sum(size for _, size, _ in known) <= MOST_BYTES
        return _digest(known, whole), WHOLE if whole else BY_SIZE
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=error.filename, hint="check its permissions"
        ) from error


def _known(file: Path) -> tuple[str, int, int]:
    """Return a file's path, size, and when it was changed."""
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4)  # one command opens the same images for several ends
def _digest(known: tuple[tuple[str, int, int], ...], whole: bool) -> str:
    root = os.path.commonpath([os.path.dirname(path) for path, *_ in known])
    digest = hashlib.sha256()
    for path, size, _ in known:
        name, content = os.path.relpath(path, root), sha256(Path(path)) if whole else "-"
        digest.update(f"{size} {content} ".encode() + os.fsencode(name) + b"\n")
    return digest.hexdigest()
