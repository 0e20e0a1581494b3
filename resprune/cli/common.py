"""What every command has without saying so: ``--config``, ``--log-format``, and errors as messages."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from resprune.cli import config as files
from resprune.cli import idle, messages, shell
from resprune.cli.messages import Format
from resprune.errors import OutputError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _common(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with options of this command in a section of its name; the command line wins.",
            show_default=False,
            callback=files.take_up,
            is_eager=True,  # before the options that it stands in for
        ),
    ] = None,
    log_format: Annotated[
        Format, typer.Option(messages.FLAG, help="Messages on stderr: text, or a JSON object a line.")
    ] = Format.TEXT,
) -> None:
    raise NotImplementedError  # a signature only


class Commands(TyperGroup):
    """Tells the parser's errors as other messages are told, and that there is no room left."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        try:
            if messages.wanted(words) is Format.TEXT:
                return super().main(words, *others, **options)
            with messages.written_as(Format.JSON):
                return _told_as_message(super().main, words, options)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            shell.forget_output()
            lost = OutputError(
                f"cannot be written ({error.strerror})", where=error.filename, hint="make room there"
            )
            messages.complain(str(lost), lost.exit_status)
            sys.exit(lost.exit_status)


def _told_as_message(main: Callable[..., Any], words: list[str], options: dict[str, Any]) -> None:
    try:
        status = main(words, **options | {"standalone_mode": False})
    except typer.TyperException as error:
        messages.complain(error.format_message(), error.exit_code)
        status = error.exit_code
    sys.exit(status)


class Application(typer.Typer):
    """Gives every command that is registered the common options."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        register = super().command(*arguments, **options)
        return lambda function: register(_with_common_options(function))


def _with_common_options(command: Callable[..., None]) -> Callable[..., None]:
    own = inspect.signature(command, eval_str=True).parameters.values()
    common = inspect.signature(_common, eval_str=True).parameters.values()

    @wraps(command)
    def run(context: typer.Context, *, config: Path | None, log_format: Format, **arguments: Any) -> None:
        with messages.written_as(log_format), idle.command(context):
            command(**arguments)

    given = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    whole = [given, *(own.replace(kind=inspect.Parameter.KEYWORD_ONLY) for own in (*own, *common))]
    run.__signature__ = inspect.Signature(whole)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in whole}
    return run
