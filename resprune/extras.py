"""What is not installed unless asked for: the extras of resprune's installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resprune.errors import UsageError


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Import something of an extra.

    Args:
        extra: Its name.
        what: What needs it, as the beginning of a sentence: "plots need".

    Raises:
        UsageError: with the command that installs it, where it is missing.
    """
    try:
        yield
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise UsageError(
            f"{what} {package}, which is not installed", hint=f"pip install 'resprune[{extra}]'"
        ) from error
