"""What arguments of the library must be, told where they are given and not where they would fail."""

from __future__ import annotations

import math
from numbers import Integral, Real

from resprune.errors import UsageError


def check_count(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        UsageError: names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name} must be a whole number, got {value!r}")
    if int(value) < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")


def check_type(name: str, value: object, wanted: type | tuple[type, ...], hint: str) -> None:
    """Refuse what is nothing of a kind.

    Raises:
        UsageError: names the argument, and says by ``hint`` how one gets the right thing.
    """
    if not isinstance(value, wanted):
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        kind = " or ".join(own.__name__ for own in kinds)
        raise UsageError(f"{name} must be a {kind}, got {value!r:.60}", hint=hint)


def check_number(name: str, value: object) -> None:
    """Refuse what is no finite real number.

    Raises:
        UsageError: names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number, got {value}")
