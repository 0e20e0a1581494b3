"""A plan and what became of it, on the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resprune.records import NetworkSummary, PruneOutcome, PrunePlan, Recovery
from resprune.report.wording import images_of, input_lines, number, percent, stage_of


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
    return grid


def prune(outcome: PruneOutcome) -> RenderableType:
    """Return the figures before and after, raw ones between them where there was a recovery, and the check."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("")
    tried = outcome.recovered
    between = [outcome.raw] if tried is not None and tried.kept else []
    figures = [outcome.before, *between, outcome.after]
    sizes = [outcome.origin, *[outcome.result] * (1 + len(between))]
    for title in ("before", "raw", "after") if between else ("before", "after"):
        table.add_column(title, justify="right")
    table.add_row("blocks", *(str(size.blocks) for size in sizes))
    if outcome.before.accuracy is not None:
        table.add_row("accuracy %", *(percent(own.accuracy) for own in figures))
        table.add_row("loss", *(number(own.loss) for own in figures))
    table.add_row("parameters", *(f"{size.parameters:,}" for size in sizes))
    table.add_row("MACs", *(f"{size.macs:,}" for size in sizes))
    after = outcome.after
    where = f"{after.samples} seeded inputs" if outcome.data is None else images_of(outcome.data)
    verified = outcome.verified
    against = verified.against + (" before recovery" if between else "")
    check = f"Checked: logits equal {against}, largest difference {verified.max_abs_difference:.1e}"
    lines = [Text(f"{check} ({where}).")]
    if tried is not None:
        lines.append(Text(recovery(tried)))
    return Group(*input_lines(outcome.data), table, Text(), *lines)


def recovery(tried: Recovery) -> str:
    """Return what was re-estimated, and whether it helped."""
    where = f" ({tried.split})" if tried.split else ""
    change = f"{tried.before:.3g} -> {tried.after:.3g} nats on {tried.held_out:,} others"
    done = "Recovered: " if tried.kept else "Left as they were, since new ones do not help: "
    return f"{done}{tried.kind} of {tried.images:,} images{where}, divergence from the original {change}."


def _why(chosen: PrunePlan) -> list[str]:
    """Return one line for all blocks that have a reason in common, in the order of the first of them."""
    blocks: dict[str, list[int]] = {}
    for index, reason in enumerate(chosen.reasons):
        blocks.setdefault(reason, []).append(index)
    return [f"{_ranges(indices)} {reason}" for reason, indices in blocks.items()]


def _ranges(indices: Sequence[int]) -> str:
    """Return ascending numbers with runs cut short: ``0-3, 5, 7, 8``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    short = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(short)


def _indices(indices: tuple[int, ...]) -> str:
    if not indices:
        return "none"
    if len(indices) > 2 and indices == tuple(range(indices[0], indices[-1] + 1)):
        return f"blocks {indices[0]} to {indices[-1]} ({len(indices)})"
    return f"blocks {', '.join(map(str, indices))} ({len(indices)})"


def _change(before: int, after: int) -> str:
    share = f", {100 * (1 - after / before):.1f} % less" if before else ""
    return f"{before:,} -> {after:,}{share}"
