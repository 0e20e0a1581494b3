"""Which split of the data is read: the one that is named, or the first of an order that is there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from resprune.errors import UsageError

VALIDATION_FIRST = ("validation", "test", "train")
"""Order in which a split is looked for where the user names none, for analysis."""
TEST_FIRST = ("test", "validation", "train")
"""The same for the last line of a report."""
CHOICE_FIRST = ("validation", "train", "test")
"""The same for choices, which the test images must not make."""

_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}


def canonical(name: str) -> str:
    """Return the name by which a split is known here."""
    return _ALIASES.get(name, name)


def choose_split(
    splits: Collection[str], spec: str, split: str | None, order: Sequence[str], *, strict: bool = False
) -> str | None:
    """Return the split to read, or None where the data is not divided.

    Args:
        splits: Those that are there, by their canonical names.
        spec: The data, as the user named it.
        split: What the user asked for.
        order: See `VALIDATION_FIRST`.
        strict: Refuse data that has splits, but none of ``order``.

    Raises:
        UsageError: where the split does not exist.
    """
    if not splits:
        if split is not None:
            raise UsageError(
                f"there is no split {split!r}, the data is not divided", where=spec, hint="leave --split out"
            )
        return None
    # Shards named part-0, part-1, ... are one part of nothing.
    undivided = len(splits) == 1 and not set(splits) & set(VALIDATION_FIRST)
    if strict and split is None and not undivided and not set(splits) & set(order):
        raise UsageError(
            f"there is no split {' or '.join(order)}, only {', '.join(sorted(splits))}",
            where=spec,
            hint="give data that has it, or name the split that is meant with --split",
        )
    if split is None:
        return next((name for name in order if name in splits), next(iter(splits)))
    if canonical(split) not in splits:
        raise UsageError(
            f"there is no split {split!r}", where=spec, hint=f"choose from {', '.join(sorted(splits))}"
        )
    return canonical(split)
