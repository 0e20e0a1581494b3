"""The command line, run in process, and what every refusal must look like."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from resprune.cli.app import app
from resprune.errors import ResPruneError


def run(*arguments: object) -> Result:
    """Run a command; a traceback would be an exception in the result."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(status: int, *arguments: object) -> str:
    """Run a command that has to be refused, and return the one line that says so."""
    result = run(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return only_line(result.stderr)


def only_line(stderr: str) -> str:
    """Return stderr, which has to be one line of resprune's own."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("resprune: ")
    assert lines[0].isprintable()
    return lines[0]


def assert_helpful(error: ResPruneError, kind: type[ResPruneError], place: Path | str) -> None:
    """Check an error's exact kind, and that it says where, and what to do next."""
    assert type(error) is kind
    assert error.where is not None
    assert error.where.startswith(str(place))
    assert error.hint
