"""How figures and advice are worded, on the terminal and in reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.text import Text

from resprune.plurals import counted
from resprune.records import BARE, Analysis, BlockRow, DataSummary, Preprocessing, ReadBack


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
    return f"{counted(data.samples, 'image')} of {data.spec}{split}"


def held_out(data: DataSummary) -> str:
    """Return which images the best epoch was chosen on."""
    if data.split == "test":
        return f"{counted(data.samples, 'image')} held out of the test images, on which it was trained"
    kind = "training image" if data.split in (None, "train") else f"{data.split} image"
    unseen = "" if data.split is None else "; the test images were not looked at"
    return f"{counted(data.samples, kind)} held out{unseen}"


def ranges(indices: Sequence[int]) -> str:
    """Return ascending numbers with runs cut short: ``0-3, 5, 7, 8``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    short = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(short)


def input_lines(data: DataSummary | None) -> list[Text]:
    """Return one line about how images became the network's input, where that is known."""
    recipe = None if data is None else data.preprocessing
    return [] if recipe is None else [Text(f"Input: {recipe_of(recipe)} [{recipe.source}]")]


def read_back(found: ReadBack | None) -> str:
    """Return what reading a folder back showed."""
    if found is None:
        return "Not read back: only the network's own adapter can build it."
    kind = "images" if found.inputs == "images" else "seeded inputs"
    return (
        f"Read back by {found.place}: largest difference of the logits {found.max_abs_difference:.2g}"
        f" ({found.samples} {kind})."
    )


def size_of(recipe: Preprocessing) -> str:
    """Return an input's size."""
    return f"{recipe.channels} x {recipe.height} x {recipe.width}"


def recipe_of(recipe: Preprocessing) -> str:
    """Return how images become the network's input."""
    scale = "" if recipe.resize is None else f"scaled to {recipe.resize}, cropped to "
    return f"{scale}{size_of(recipe)}, mean {list(recipe.mean)}, std {list(recipe.std)}"


def suggestion(analysis: Analysis) -> str:
    """Return the advice in plain words; never that a small residual alone makes a block superfluous."""
    rows, depth, tol = analysis.trajectory.rows, analysis.suggested_depth, analysis.tolerance
    if depth < len(rows):
        exit_accuracy = rows[depth].exit_accuracy
        moved = sum(row.residual_norm_relative for row in rows[depth:])
        kept = "" if exit_accuracy is None else f" at accuracy {100 * exit_accuracy:.2f} %"
        return (
            f"Suggestion: keep {depth} of {len(rows)} blocks{kept}. Every residual from block {depth} on is"
            f" at most {tol:g} of the output; together they move it by at most {_ceiling(moved)}."
        )
    text = f"Suggestion: no block at the end can go at tolerance {tol:g}"
    text += f" (the last residual is {rows[-1].residual_norm_relative:.1e})." if rows else "."
    cheapest = _least_effect(rows)
    if cheapest is not None:
        text += (
            f" Least effect when dropped alone: block {cheapest.index} ({cheapest.path}), relative change"
            f" {cheapest.drop_change_relative:.1e}, same top class on {percent(cheapest.drop_agreement)} %."
        )
    return text


def _ceiling(value: float) -> str:
    """Two digits, rounded up: a bound must not be rounded to below what it bounds."""
    if value == 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.1e}"


def _least_effect(rows: tuple[BlockRow, ...]) -> BlockRow | None:
    measured = [row for row in rows if row.drop_change_relative is not None]
    return min(measured, key=lambda row: row.drop_change_relative or 0.0, default=None)
