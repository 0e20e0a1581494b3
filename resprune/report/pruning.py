"""A plan and what became of it, on the terminal, 80 columns wide."""

from __future__ import annotations

from statistics import fmean, stdev

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resprune.plurals import counted
from resprune.records import Drop, EpochRow, NetworkSummary, PruneOutcome, PrunePlan, Recipe, Recovery, Rival
from resprune.report.layout import FigureTable
from resprune.report.wording import images_of, input_lines, number, percent, ranges, stage_of


def plan(chosen: PrunePlan, origin: NetworkSummary, result: NetworkSummary) -> RenderableType:
    """Return a plan before it is carried out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("rule", chosen.rule)
    grid.add_row("keep", _indices(chosen.kept))
    grid.add_row("remove", _indices(chosen.removed))
    for index, line in enumerate(_why(chosen)):
        grid.add_row("why" if index == 0 else "", line)
    grid.add_row(
        "result", f"{result.architecture.name} ({', '.join(map(stage_of, result.architecture.stages))})"
    )
    grid.add_row("parameters", _change(origin.parameters, result.parameters))
    grid.add_row("MACs", _change(origin.macs, result.macs))
    if chosen.divergence is not None:
        grid.add_row("divergence", f"{chosen.divergence:.3g} nats from the original's output, in its trial")
    if chosen.speed is not None:
        own, (low, high) = chosen.speed, chosen.speed.quartiles
        where = f"batch of {own.batch_size}, {own.threads} thread{'s' if own.threads > 1 else ''}, {own.device}"
        grid.add_row("speed", f"{own.factor:.2f} times faster ({low:.2f} to {high:.2f}; {where}), eager mode")
    if chosen.drop is not None:
        grid.add_row("drop", _cost(chosen.drop))
    for other in chosen.beside:
        own = f"{other.method} instead: {_indices(other.removed)}, {_change(origin.macs, other.macs)}"
        grid.add_row("beside", f"{own}, divergence {other.divergence:.3g} nats")
    for index, rival in enumerate(chosen.rivals):
        grid.add_row("" if index else "tried", f"{_indices(rival.removed)}: {_healed(rival)}")
    return grid


def prune(outcome: PruneOutcome) -> RenderableType:
    """Return the figures before and after, those of every step between them, and the check."""
    table = FigureTable()
    steps = [(_DONE.get(tried.kind, tried.kind), own) for tried in outcome.kept if (own := tried.figures)]
    if (steps[-1][1] if steps else outcome.raw) != outcome.after:  # the last of several rounds kept nothing
        steps.append(("after", outcome.after))
    figures = [("before", outcome.before), ("raw" if steps else "after", outcome.raw), *steps]
    table.add_column("")
    for title, _ in figures:
        table.add_column(title, justify="right")
    between = [""] * (len(figures) - 2)
    before, after = outcome.origin, outcome.result
    table.add_row("blocks", str(before.blocks), *between, str(after.blocks))
    if outcome.before.accuracy is not None:
        table.add_row("accuracy %", *(percent(own.accuracy) for _, own in figures))
        table.add_row("loss", *(number(own.loss) for _, own in figures))
    table.add_row("parameters", f"{before.parameters:,}", *between, f"{after.parameters:,}")
    table.add_row("MACs", f"{before.macs:,}", *between, f"{after.macs:,}")
    seen = outcome.after.samples
    where = f"{seen} seeded inputs" if outcome.data is None else images_of(outcome.data)
    verified = outcome.verified
    against = verified.against + (" before recovery" if outcome.kept else "")
    check = f"Checked: logits equal {against}, largest difference {verified.max_abs_difference:.1e}"
    tried = [recovery(own, len(outcome.plan.removed)) for own in outcome.recovered]
    lines = [f"{check} ({where}).", *tried, *controls(outcome)]
    return Group(*input_lines(outcome.data), table, Text(), *map(Text, lines))


_DONE = {"batch-norm statistics": "statistics", "compensation": "compensated", "healing": "healed"}
"""Headings of the columns with figures after each kind of recovery."""


def recovery(tried: Recovery, blocks: int) -> str:
    """Return what was done, and whether it helped; ``blocks`` are to be removed altogether."""
    where = f" ({tried.split})" if tried.split else ""
    change = f"{tried.before:.3g} -> {tried.after:.3g} nats on {tried.held_out:,} others"
    done = "Kept" if tried.kept else "Tried and left, since it does not help"
    if not tried.held_out:
        change = "not measured, none were held out"
    how = "" if tried.recipe is None else f", {_length(tried.recipe)}"
    how += "" if tried.removed == blocks else f", without {tried.removed} of {blocks} blocks"
    return f"{done}: {tried.kind}, {tried.images:,} images{where}{how}, divergence from the original {change}."


def _length(recipe: Recipe) -> str:
    if recipe.steps is not None:
        return counted(recipe.steps, "step")
    return counted(recipe.epochs, "epoch")


def candidate(chosen: PrunePlan) -> str:
    """Return what removing some blocks costs, one of several plans that are tried."""
    lost = "" if chosen.drop is None else f": {_cost(chosen.drop)}"
    lost += "".join(f": {_healed(rival)}" for rival in chosen.rivals)
    return f"Tried: {_without(chosen.removed)}{lost}"


def _healed(rival: Rival) -> str:
    return f"{rival.divergence:.3g} nats from the original after {rival.steps} steps of healing"


def control(kind: str, seed: int, removed: tuple[int, ...]) -> str:
    """Return which network to compare with is made next."""
    how = "trained from scratch" if kind == "scratch" else "at random"
    return f"Control, {how}, seed {seed}: {_without(removed)}"


def _cost(drop: Drop) -> str:
    change, sign = ("gained", -1) if drop.points < 0 else ("lost", 1)
    low, high = sorted((sign * drop.interval.low, sign * drop.interval.high))
    seen = counted(drop.samples, "held-out image")
    return (
        f"{sign * drop.points:.2f} points of accuracy {change} on {seen}"
        f" (95 %: {round(low, 2) + 0.0:.2f} to {round(high, 2) + 0.0:.2f})"
    )


def healed(row: EpochRow) -> str:
    """Return what an epoch of a healing brought."""
    seen = (
        ""
        if row.final is None or row.final.accuracy is None
        else f", accuracy {percent(row.final.accuracy)} % on held-out images"
    )
    return f"Healing: epoch {row.epoch}{seen}, {row.seconds:.0f} s"


def controls(outcome: PruneOutcome) -> list[str]:
    """Return one line for every kind of control: its accuracies beside the plan's."""
    words = {"random": "as many blocks removed at random", "scratch": "the same shape trained from scratch"}
    lines = []
    for kind, text in words.items():
        own = [control for control in outcome.controls if control.kind == kind]
        accuracies = [c.after.accuracy for c in own if c.after.accuracy is not None]
        if accuracies and outcome.after.accuracy is not None:
            mean, middle = 100 * fmean(accuracies), 100 * outcome.after.accuracy
            spread = f" (standard deviation {100 * stdev(accuracies):.2f})" if len(accuracies) > 1 else ""
            lines.append(
                f"Control: {text}, {len(own)} seed{'s' if len(own) > 1 else ''}: accuracy {mean:.2f} %{spread},"
                f" {100 * min(accuracies):.2f} to {100 * max(accuracies):.2f}; this plan {middle:.2f} %."
            )
    return lines


def _why(chosen: PrunePlan) -> list[str]:
    """Return one line for all blocks that have a reason in common, in the order of the first of them."""
    blocks: dict[str, list[int]] = {}
    for index, reason in enumerate(chosen.reasons):
        blocks.setdefault(reason, []).append(index)
    return [f"{ranges(indices)} {reason}" for reason, indices in blocks.items()]


def _without(removed: tuple[int, ...]) -> str:
    return f"without {_indices(removed)}" if removed else "with all blocks"


def _indices(indices: tuple[int, ...]) -> str:
    if not indices:
        return "none"
    if len(indices) == 1:
        return f"block {indices[0]}"
    if len(indices) > 2 and indices == tuple(range(indices[0], indices[-1] + 1)):
        return f"blocks {indices[0]} to {indices[-1]} ({len(indices)})"
    return f"blocks {', '.join(map(str, indices))} ({len(indices)})"


def _change(before: int, after: int) -> str:
    share = f", {100 * (1 - after / before):.1f} % less" if before else ""
    return f"{before:,} -> {after:,}{share}"
