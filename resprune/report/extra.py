"""What reports and plots need besides: the extra ``report``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resprune.errors import UsageError


@contextmanager
def from_extra() -> Iterator[None]:
    """Import something of the extra.

    Raises:
        UsageError: with the command that installs it, where it is missing.
    """
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"reports and plots need {error.name}, which is not installed",
            hint="pip install 'resprune[report]'",
        ) from error
