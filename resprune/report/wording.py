"""How single figures are worded on the terminal."""

from __future__ import annotations

from rich.text import Text

from resprune.records import BARE, DataSummary, Preprocessing


def stage_of(letters: str) -> str:
    """Return what is left of a stage, whose letters these are."""
    bare = letters.count(BARE)
    whole = len(letters) - bare
    return str(whole) if not bare else f"{whole} + {bare} skip only"


def percent(value: float | None) -> str:
    """Return a fraction of one in per cent, or nothing."""
    return "" if value is None else f"{100 * value:.2f}"


def number(value: float | None) -> str:
    """Return a number, or nothing."""
    return "" if value is None else f"{value:.4f}"


def images_of(data: DataSummary) -> str:
    """Return which images something was measured on."""
    split = f" ({data.split})" if data.split else ""
    return f"{data.samples:,} images of {data.spec}{split}"


def input_lines(data: DataSummary | None) -> list[Text]:
    """Return one line about how images became the network's input, where that is known."""
    recipe = None if data is None else data.preprocessing
    return [] if recipe is None else [Text(f"Input: {recipe_of(recipe)} [{recipe.source}]")]


def size_of(recipe: Preprocessing) -> str:
    """Return an input's size."""
    return f"{recipe.channels} x {recipe.height} x {recipe.width}"


def recipe_of(recipe: Preprocessing) -> str:
    """Return how images become the network's input."""
    scale = "" if recipe.resize is None else f"scaled to {recipe.resize}, cropped to "
    return f"{scale}{size_of(recipe)}, mean {list(recipe.mean)}, std {list(recipe.std)}"
