"""Options that were typed and would do nothing are refused: who types one expects something of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import typer

from resprune.errors import UsageError

_context: ContextVar[typer.Context] = ContextVar("context")


@contextmanager
def command(context: typer.Context) -> Iterator[None]:
    """Let `refuse` and `typed` know the command that runs meanwhile."""
    token = _context.set(context)
    try:
        yield
    finally:
        _context.reset(token)


def typed(name: str) -> bool:
    """Whether a parameter is on the command line; a value of ``--config`` is a default like any other."""
    source = _context.get().get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse(reasons: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse the first option that was typed and does nothing.

    Args:
        reasons: By parameter, whether it does nothing, and why: words that follow the option's name, such as
            "is of a teacher, and there is none".

    Raises:
        UsageError: names the option.
    """
    for name, (idle, reason) in reasons.items():
        if idle and typed(name):
            raise UsageError(f"{_flag(name)} {reason}", hint="leave it out")


def _flag(name: str) -> str:
    """Return how a parameter is written, the longest of its names."""
    parameters = {own.name: own.opts for own in _context.get().command.params}
    return max(parameters[name], key=len)
