"""The JSON of ``resprune analyze`` back into records, checked value by value.

A file can hold anything. What is not as `resprune.report.results` writes it is refused with the place in it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from resprune.errors import ResultError, printable
from resprune.records import (
    Analysis,
    Architecture,
    Band,
    BlockRow,
    Bounds,
    DataSummary,
    Evaluation,
    NetworkSummary,
    Origin,
    Preprocessing,
    Study,
    Trajectory,
)

SCHEMA = "resprune/analyze/1"
LARGEST = 64 << 20
"""Bytes that a result may have; a thousand blocks take half a megabyte."""
_HINT = "give what resprune analyze --json printed"
_T = TypeVar("_T")


def read(path: Path, name: str) -> Study:
    """Read one file.

    Args:
        path: Of the JSON.
        name: For legends and headings.

    Raises:
        ResultError: where the file cannot be read, or is no result of ``resprune analyze``.
    """
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "there is no such file"
            raise ResultError(what, where=path, hint=_HINT)
        if path.stat().st_size > LARGEST:
            raise ResultError(f"is larger than {LARGEST:,} bytes", where=path, hint=_HINT)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"cannot be read ({error.strerror or error})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"is no JSON ({type(error).__name__})", where=path, hint=_HINT) from error
    return study(content, name, where=path)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a short name for every file, no two alike: its stem, with the folder where that is needed."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{path.stem}" for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, 1)]
    return [printable(name) for name in names]


def study(content: Any, name: str, *, where: object = None) -> Study:
    """Return what a JSON object says; see `read`."""
    top = _Place(content, "", where)
    found = top.get("schema", _text)
    if found != SCHEMA:
        raise ResultError(f"the schema is {found!r} instead of {SCHEMA!r}", where=where, hint=_HINT)
    rows = tuple(_row(place, index) for index, place in enumerate(top.items("blocks")))
    if any(after.stage < before.stage for before, after in itertools.pairwise(rows)):
        raise top.error("blocks", "the stages are not in order")
    depth = top.get("suggested_depth", _count)
    if depth > len(rows):
        raise top.error("suggested_depth", f"{depth} of {len(rows)} blocks")
    data, final = top.inner("data"), top.inner("final")
    trajectory = Trajectory(
        Evaluation(
            final.get("accuracy", _or_none(_fraction)),
            None,
            final.get("loss", _or_none(_amount)),
            data.get("samples", _count),
        ),
        rows,
        final.get("logits_norm", _amount, default=math.nan),
    )
    summary = DataSummary(
        data.get("spec", _text), data.get("split", _or_none(_text)), trajectory.final.samples, _recipe(data)
    )
    network = _network(top.inner("checkpoint"), rows)
    bounds = top.inner("bounds", optional=True)
    control = top.inner("control", optional=True)
    return Study(
        name=name,
        analysis=Analysis(
            network,
            summary,
            trajectory,
            top.get("tolerance", _amount),
            depth,
            None if control is None else _control(control),
        ),
        version=top.get("version", _text),
        made=_made(top),
        bounds=None if bounds is None else _bounds(bounds),
        sub_path="" if bounds is None else bounds.inner("sub").get("path", _text),
    )


def _row(place: _Place, index: int) -> BlockRow:
    if place.get("index", _count) != index:
        raise place.error("index", f"{place.value['index']} instead of {index}")
    return BlockRow(
        index=index,
        path=place.get("path", _text),
        stage=place.get("stage", _count),
        exit_accuracy=place.get("exit_accuracy", _or_none(_fraction)),
        exit_loss=place.get("exit_loss", _or_none(_amount)),
        residual_norm=place.get("residual_norm", _amount),
        residual_norm_relative=place.get("residual_norm_relative", _amount),
        parameter_norm=place.get("parameter_norm", _amount),
        drop_change_relative=place.get("drop_change_relative", _or_none(_amount)),
        drop_agreement=place.get("drop_agreement", _or_none(_fraction)),
        macs=place.get("macs", _count),
        parameters=place.get("parameters", _count),
    )


def _network(place: _Place, rows: Sequence[BlockRow]) -> NetworkSummary:
    if place.get("blocks", _count) != len(rows):
        raise place.error("blocks", f"{place.value['blocks']}, and {len(rows)} are listed")
    numbers = [row.stage for row in rows]
    stages = tuple("b" * numbers.count(stage) for stage in sorted(set(numbers)))
    return NetworkSummary(
        Origin(place.get("path", _text), place.get("sha256", _text), ""),
        Architecture(place.get("family", _text), place.get("architecture", _text), stages),
        len(rows),
        place.get("parameters", _count),
        place.get("macs", _count),
    )


def _recipe(data: _Place) -> Preprocessing | None:
    place = data.inner("preprocessing", optional=True)
    if place is None:
        return None
    try:
        return Preprocessing.from_json(place.value, place.get("source", _text))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise data.error("preprocessing", f"no recipe ({error})") from error


def _made(top: _Place) -> dict[str, Any]:
    place = top.inner("made", optional=True)
    if place is None:
        return {}
    made: dict[str, Any] = {}
    if "command" in place.value:
        made["command"] = place.get("command", _text)
    if "seed" in place.value:
        made["seed"] = place.get("seed", _count)
    versions = place.inner("versions", optional=True)
    if versions is not None:
        made["versions"] = {printable(str(key)): versions.get(key, _text) for key in versions.value}
    return made


def _control(place: _Place) -> Band:
    removed = place.value.get("removed")
    count = len(removed) if isinstance(removed, list) else place.get("removed", _count)
    changes = place.numbers("change_relative", _amount)
    if not changes:
        raise place.error("change_relative", "no repetition")
    return Band(count, changes, place.numbers("agreement", _fraction))


def _bounds(place: _Place) -> Bounds:
    first, second = place.inner("bound_1"), place.inner("bound_2")
    return Bounds(
        sub_blocks=place.inner("sub").get("blocks", _count),
        gamma=place.get("gamma", _amount),
        branch_decay=place.get("lambda", _amount),
        sub_loss=place.get("L_bar", _amount),
        objective=first.get("J", _amount),
        objective_bound=first.get("J_bar", _amount),
        average_loss=second.get("L_avg", _amount),
        average_loss_bound=second.get("L_bar_avg", _number),
    )


@dataclass(frozen=True)
class _Place:
    """A JSON object somewhere in the file, and where that is."""

    value: Any
    path: str
    where: object

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise self.error("", f"no JSON object but {_kind(self.value)}")

    def error(self, key: str, what: str) -> ResultError:
        place = ".".join(part for part in (self.path, key) if part)
        return ResultError(f"{place}: {what}" if place else what, where=self.where, hint=_HINT)

    def get(self, key: str, check: Callable[[Any], _T], **given: _T) -> _T:
        """Return one value; ``default`` where the key is missing."""
        if key not in self.value:
            if "default" in given:
                return given["default"]
            raise self.error(key, "is missing")
        try:
            return check(self.value[key])
        except ValueError as error:
            raise self.error(key, f"{error}, got {_kind(self.value[key])}") from error

    def inner(self, key: str, *, optional: bool = False) -> Any:
        """Return the object under a key, or None where it may be missing."""
        if optional and self.value.get(key) is None:
            return None
        path = f"{self.path}.{key}" if self.path else key
        return _Place(self.get(key, lambda value: value), path, self.where)

    def items(self, key: str) -> list[_Place]:
        """Return the objects of a list."""
        values = self.get(key, _list)
        path = f"{self.path}.{key}" if self.path else key
        return [_Place(value, f"{path}[{index}]", self.where) for index, value in enumerate(values)]

    def numbers(self, key: str, check: Callable[[Any], float]) -> tuple[float, ...]:
        """Return a list of numbers."""
        values = self.get(key, _list)
        try:
            return tuple(check(value) for value in values)
        except ValueError as error:
            raise self.error(key, str(error)) from error


def _kind(value: Any) -> str:
    """Return a value for a message, or its kind where it is long."""
    if isinstance(value, (dict, list, str)):
        names = {dict: "an object", list: "a list", str: "a text"}
        return names[type(value)]
    return "null" if value is None else str(value).lower()[:40]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is expected")
    return printable(value)


def _number(value: Any) -> float:
    # Python's JSON has NaN, infinities and integers beyond every float; bool is an int.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise ValueError("a finite number is expected")
    return float(value)


def _amount(value: Any) -> float:
    if _number(value) < 0:
        raise ValueError("a number of at least 0 is expected")
    return float(value)


def _fraction(value: Any) -> float:
    if _amount(value) > 1:
        raise ValueError("a fraction from 0 to 1 is expected")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError("a whole number of at least 0 is expected")
    return value


def _or_none(check: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    return lambda value: None if value is None else check(value)
