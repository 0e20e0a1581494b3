"""Values of a JSON file, checked one by one; what is wrong is refused with its place in the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from resprune.errors import ResultError, printable

HINT = "give what resprune analyze --json or prune --frontier --json printed"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """A JSON object somewhere in the file, and where that is."""

    value: Any
    path: str
    where: object

    def __post_init__(self) -> None:
        if not isinstance(self.value, dict):
            raise self.error("", f"no JSON object but {kind(self.value)}")

    def error(self, key: str, what: str) -> ResultError:
        """Return the error that says what is wrong under a key."""
        place = ".".join(part for part in (self.path, key) if part)
        return ResultError(f"{place}: {what}" if place else what, where=self.where, hint=HINT)

    def get(self, key: str, check: Callable[[Any], _T], **given: _T) -> _T:
        """Return one value; ``default`` where the key is missing."""
        if key not in self.value:
            if "default" in given:
                return given["default"]
            raise self.error(key, "is missing")
        try:
            return check(self.value[key])
        except ValueError as error:
            raise self.error(key, f"{error}, got {kind(self.value[key])}") from error

    def inner(self, key: str, *, optional: bool = False) -> Any:
        """Return the object under a key, or None where it may be missing."""
        if optional and self.value.get(key) is None:
            return None
        path = f"{self.path}.{key}" if self.path else key
        return Place(self.get(key, lambda value: value), path, self.where)

    def items(self, key: str) -> list[Place]:
        """Return the objects of a list."""
        values = self.get(key, listed)
        path = f"{self.path}.{key}" if self.path else key
        return [Place(value, f"{path}[{index}]", self.where) for index, value in enumerate(values)]

    def values(self, key: str, check: Callable[[Any], _T]) -> tuple[_T, ...]:
        """Return the values of a list."""
        values = self.get(key, listed)
        try:
            return tuple(check(value) for value in values)
        except ValueError as error:
            raise self.error(key, str(error)) from error


def kind(value: Any) -> str:
    """Return a value for a message, or its kind where it is long."""
    if isinstance(value, (dict, list, str)):
        names = {dict: "an object", list: "a list", str: "a text"}
        return names[type(value)]
    return "null" if value is None else str(value).lower()[:40]


def listed(value: Any) -> list[Any]:
    """Return a list, or raise a `ValueError`; so do the functions below."""
    if not isinstance(value, list):
        raise ValueError("a list is expected")
    return value


def text(value: Any) -> str:
    """Return a text that can be shown."""
    if not isinstance(value, str):
        raise ValueError("a text is expected")
    return printable(value)


def number(value: Any) -> float:
    """Return a finite number."""
    # Python's JSON has NaN, infinities and integers beyond every float; bool is an int.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise ValueError("a finite number is expected")
    return float(value)


def amount(value: Any) -> float:
    """Return a number that is not negative."""
    if number(value) < 0:
        raise ValueError("a number of at least 0 is expected")
    return float(value)


def fraction(value: Any) -> float:
    """Return a number from 0 to 1."""
    if amount(value) > 1:
        raise ValueError("a fraction from 0 to 1 is expected")
    return float(value)


def count(value: Any) -> int:
    """Return a whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError("a whole number of at least 0 is expected")
    return value


def or_none(check: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    """Return a check that lets null pass."""
    return lambda value: None if value is None else check(value)


def made(top: Place) -> dict[str, Any]:
    """Return what a result says of how it was made, as far as it does."""
    place = top.inner("made", optional=True)
    if place is None:
        return {}
    found: dict[str, Any] = {}
    if "command" in place.value:
        found["command"] = place.get("command", text)
    if "seed" in place.value:
        found["seed"] = place.get("seed", count)
    versions = place.inner("versions", optional=True)
    if versions is not None:
        found["versions"] = {printable(str(key)): versions.get(key, text) for key in versions.value}
    return found
