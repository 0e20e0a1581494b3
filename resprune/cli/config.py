"""``--config FILE``: what the command line takes, from a YAML file with a section for each command.

A value is written as it would be typed, and the command's own parameter checks and converts it: a new option is
known here without a line more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from resprune.cli import shell
from resprune.errors import UsageError

if TYPE_CHECKING:
    from yaml import Node, ScalarNode

LARGEST = 1_000_000
"""Bytes; a longer file is none that a person wrote."""
_BOOL, _NULL = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:null"
Value = str | bool | list[str]


@dataclass(frozen=True)
class Used:
    """What a file gave to the command that runs.

    Attributes:
        file: As the user named it.
        sha256: Of its content.
        options: By key, as they stand in the file.
    """

    file: Path
    sha256: str
    options: Mapping[str, Value]


used: ContextVar[Used | None] = ContextVar("used", default=None)
"""The file of the command that runs."""


def take_up(context: typer.Context, file: Path | None) -> Path | None:
    """Make the options of a file's section the defaults of the command that is being parsed."""
    used.set(None)
    if file is not None:
        with shell.command(debug=False):
            content = _content(file)
            sections = dict(_sections(file, content, context))
            name = context.command.name or ""
            if name not in sections:
                raise UsageError(
                    f"there is no section {name!r}", where=file, hint="add one, or leave --config out"
                )
            context.default_map = {key: value for _, key, value in sections[name]}
            given = {written: value for written, _, value in sections[name]}
            used.set(Used(file, hashlib.sha256(content).hexdigest(), given))
    return file


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot be read ({reason})", where=file, hint="name a YAML file") from error
    if len(content) > LARGEST:
        raise UsageError("is too long to be a configuration", where=file, hint="name a YAML file")
    return content


def _sections(
    file: Path, content: bytes, context: typer.Context
) -> Iterator[tuple[str, list[tuple[str, str, Value]]]]:
    """Yield the command of every section, and its options as key, name of the parameter, value."""
    assert context.parent is not None
    group: Any = context.parent.command
    for key, section in _pairs(file, _document(file, content)):
        command = group.commands.get(key.value)
        if command is None:
            raise _unknown(file, key, "command", group.commands)
        options = {name: param for param in command.params for name in _names(param) if name != "config"}
        found: dict[str, tuple[str, str, Value]] = {}
        for name, node in _pairs(file, section):
            param = options.get(name.value)
            if param is None:
                raise _unknown(file, name, f"option of {key.value}", options)
            if param.name in found:
                raise UsageError(
                    f"{name.value} is the same as {found[param.name][0]}",
                    where=_at(file, name),
                    hint="give one",
                )
            value = _value(file, name.value, node, param)
            if value is not None:
                _check(file, name.value, node, param, value, context)
                found[param.name] = name.value, param.name, value
        yield key.value, list(found.values())


def _document(file: Path, content: bytes) -> Node:
    """Return the file's tree, of which nothing is made but text.

    Raises:
        UsageError: where it is no YAML.
    """
    import yaml

    try:
        node = yaml.compose(content, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = file if mark is None else f"{file}, line {mark.line + 1}"
        raise UsageError(f"is no YAML ({error.problem})", where=where, hint="write KEY: VALUE") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise UsageError(f"is no YAML ({reason})", where=file, hint="write KEY: VALUE") from error
    if node is None:
        raise UsageError("is empty", where=file, hint="write a section such as prune:")
    return node


def _pairs(file: Path, node: Node) -> Iterator[tuple[ScalarNode, Node]]:
    """Yield a mapping's keys and values; an empty value is an empty mapping.

    Raises:
        UsageError: where it is none, or a key is no text or there twice.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        return
    if not isinstance(node, yaml.MappingNode):
        raise UsageError("expected lines KEY: VALUE", where=_at(file, node), hint="write target-macs: 0.66")
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError("a key must be a name", where=_at(file, key), hint="write KEY: VALUE")
        if key.value in lines:
            raise UsageError(
                f"{key.value!r} stands in line {lines[key.value]} already",
                where=_at(file, key),
                hint="leave one of them out",
            )
        lines[key.value] = key.start_mark.line + 1
        yield key, value


def _names(param: Any) -> list[str]:
    """Return the keys that stand for a parameter: an argument's name, an option's long names."""
    if param.param_type_name == "argument":
        return [param.name]
    return [name.removeprefix("--") for name in param.opts if name.startswith("--")]


def _value(file: Path, key: str, node: Node, param: Any) -> Value | None:
    """Return what would stand on the command line, or None for nothing.

    Raises:
        UsageError: where it is of another kind than the option takes.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode) and node.tag == _NULL:
        return None
    several = param.multiple if param.param_type_name == "option" else param.nargs == -1
    if isinstance(node, yaml.SequenceNode) and several:
        items = [item.value for item in node.value if isinstance(item, yaml.ScalarNode)]
        if len(items) < len(node.value):
            raise UsageError(f"{key} takes a list of values", where=_at(file, node), hint="do not nest them")
        return items
    if not isinstance(node, yaml.ScalarNode):
        got = "a list" if isinstance(node, yaml.SequenceNode) else "lines KEY: VALUE"
        raise UsageError(
            f"{key} takes one value, got {got}", where=_at(file, node), hint="write it as on the command line"
        )
    if not getattr(param, "is_flag", False):
        return [node.value] if several else node.value
    if node.tag != _BOOL:
        raise UsageError(f"{key} is true or false, got {node.value!r}", where=_at(file, node))
    return node.value.lower() in ("true", "yes", "on")


def _check(file: Path, key: str, node: Node, param: Any, value: Value, context: typer.Context) -> None:
    """Let the parameter convert a value, as it will again when the command runs.

    Raises:
        UsageError: where it refuses.
    """
    try:
        param.process_value(context, value)
    except typer.BadParameter as error:
        got = node.value if isinstance(node.value, str) else value
        raise UsageError(
            f"{key}: {error.message.removeprefix('Value error, ').rstrip('.')}, got {got!r}",
            where=_at(file, node),
        ) from error


def _unknown(file: Path, key: ScalarNode, what: str, known: Iterable[str]) -> UsageError:
    positive = key.value.removeprefix("no-")
    if positive != key.value and positive in known:
        hint = f"write {positive}: false"
    else:
        near = get_close_matches(key.value.replace("_", "-"), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(known))}"
    return UsageError(f"{key.value!r} is no {what}", where=_at(file, key), hint=hint)


def _at(file: Path, node: Node) -> str:
    return f"{file}, line {node.start_mark.line + 1}"
