"""What the options of ``prune`` say of a healing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from resprune.errors import UsageError
from resprune.records import RECIPES, Recipe


def recipe(asked: Mapping[str, Any], rounds: int, seed: int, device: str) -> Recipe | None:
    """Return the recipe of a healing that the device can do, or None for none.

    Args:
        asked: Fields of the recipe; None where an option is not given. There is a healing where ``epochs`` or
            ``steps`` is.
        rounds: In how many parts the blocks go.
        seed: Of everything drawn.
        device: For training.

    Raises:
        UsageError: where options contradict each other or mean nothing, or the device cannot be had.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if not given.keys() & {"epochs", "steps"}:
        flags = [f"--heal-{name}" for name in given] + ["--heal-rounds"] * (rounds > 1)
        if flags:
            raise UsageError(f"{flags[0]} is of a healing, and there is none", hint="add --heal EPOCHS")
        return None
    if given.keys() >= {"epochs", "steps"}:
        raise UsageError("--heal and --heal-steps both say how long to heal", hint="give one of them")
    from resprune.devices import trainable

    trainable(device)  # before a search for blocks, which may take long
    return replace(RECIPES["heal"], seed=seed, **given)
