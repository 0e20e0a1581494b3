"""Results as tables and sentences on the terminal, 80 columns wide."""

from __future__ import annotations

from io import BytesIO
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resprune.plurals import counted
from resprune.records import (
    Analysis,
    Assumption,
    Bounds,
    DataSummary,
    Evaluation,
    FinetuneOutcome,
    NetworkSummary,
    Preprocessing,
    Remedy,
    Subject,
)
from resprune.report.layout import FigureTable
from resprune.report.wording import (
    held_out,
    images_of,
    input_lines,
    number,
    percent,
    recipe_of,
    size_of,
    stage_of,
    suggestion,
)

_BAR = 10
_NAME = 16
"""Characters that leave room for every figure of a block in 80 columns."""


def inspect(network: NetworkSummary, preprocessing: Preprocessing) -> RenderableType:
    """Return what a checkpoint is."""
    architecture = network.architecture
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    grid.add_row("checkpoint", network.origin.path)
    grid.add_row("format", network.origin.format)
    grid.add_row("family", architecture.family)
    grid.add_row("architecture", architecture.name)
    grid.add_row("blocks", f"{network.blocks}  ({', '.join(map(stage_of, architecture.stages))})")
    grid.add_row("options", ", ".join(f"{key} {value}" for key, value in architecture.options.items()))
    grid.add_row("parameters", f"{network.parameters:,}")
    grid.add_row("MACs", f"{network.macs:,} an image of {size_of(preprocessing)}")
    grid.add_row("input", f"{recipe_of(preprocessing)} [{preprocessing.source}]")
    for index, note in enumerate(network.origin.notes):
        grid.add_row("notes" if index == 0 else "", Text(note))
    for assumption in network.origin.assumptions:
        grid.add_row("given" if assumption.given else "assumed", Text(_assumed(assumption)))
    grid.add_row(
        "sha256", network.origin.sha256 or "not read: names and shapes only; --check reads the numbers"
    )
    return grid


def analyze(analysis: Analysis) -> RenderableType:
    """Return the trajectory as a table, one row for each exit, and the suggestion."""
    rows = analysis.trajectory.rows
    largest = max((row.residual_norm_relative for row in rows), default=0.0)
    table = FigureTable(gap=1, spare=(5,))
    table.add_column("k", justify="right")
    table.add_column("block", no_wrap=True)
    table.add_column("exit\nacc %", justify="right")
    table.add_column("exit\nloss", justify="right")
    table.add_column("residual\nrelative", justify="right")
    table.add_column("", no_wrap=True, style="cyan")
    table.add_column("drop\nchange", justify="right")
    table.add_column("drop\nagree %", justify="right")
    table.add_column("branch\nnorm", justify="right")
    for row in rows:
        table.add_row(
            str(row.index),
            _end_of(row.path),
            percent(row.exit_accuracy),
            number(row.exit_loss),
            f"{row.residual_norm_relative:.1e}",
            _bar(row.residual_norm_relative, largest),
            "" if row.drop_change_relative is None else f"{row.drop_change_relative:.1e}",
            percent(row.drop_agreement),
            f"{row.parameter_norm:.2f}",
            style="dim" if row.index >= analysis.suggested_depth else None,
        )
    final = analysis.trajectory.final
    table.add_row(str(len(rows)), "output", percent(final.accuracy), number(final.loss), style="bold")
    head = f"{analysis.network.architecture.name}, {images_of(analysis.data)}"
    return Group(Text(head), *input_lines(analysis.data), table, Text(), *map(Text, _words(analysis)))


def _words(analysis: Analysis) -> list[str]:
    """Return the suggestion, and what to compare it with."""
    band = analysis.control
    if band is None:
        return [suggestion(analysis)]
    blocks = counted(band.removed, "block")
    changes, kept = band.change_relative, band.agreement
    return [
        suggestion(analysis),
        f"Control: removing {blocks} at random, {len(changes)} times, moves the output by {min(changes):.2g} to"
        f" {max(changes):.2g} of its norm and keeps the top class of {percent(min(kept))} to"
        f" {percent(max(kept))} % of the images.",
    ]


def bounds(found: Bounds, network: NetworkSummary, sub: NetworkSummary, data: DataSummary) -> RenderableType:
    """Return the terms of the paper's Tables 2 and 3, and what they are worth on these images."""
    table = FigureTable()
    for title in ("", "network", "bound", "gap"):
        table.add_column(title, justify="right" if title else "left")
    first = (found.objective, found.objective_bound, found.objective_gap)
    second = (found.average_loss, found.average_loss_bound, found.average_loss_gap)
    table.add_row("bound 1: J, J_bar", *map(number, first))
    table.add_row("bound 2: L_avg, L_bar_avg", *map(number, second))
    blocks = counted(network.blocks, "block")
    head = (
        f"Bounds of {blocks} with a SubResNet of {found.sub_blocks} ({sub.origin.path}), gamma"
        f" {found.gamma:g}, lambda {found.branch_decay:g}: L_bar {number(found.sub_loss)} nats"
    )
    note = "The theorems are about training losses at the optimum"
    where = data.split or "other"
    note += "." if where == "train" else f"; on {where} images a gap is a figure and no promise."
    return Group(Text(), Text(head), table, Text(note))


def evaluate(network: Subject, data: DataSummary, evaluation: Evaluation) -> RenderableType:
    """Return accuracy and loss."""
    name = network.architecture.name if isinstance(network, NetworkSummary) else PurePath(network.path).name
    figures = Text(
        f"{name}, {images_of(data)}: accuracy {percent(evaluation.accuracy)} %,"
        f" top 5 {percent(evaluation.accuracy_top5)} %, loss {number(evaluation.loss)}"
    )
    return Group(*input_lines(data), figures)


def remedy(found: tuple[Remedy, ...]) -> str:
    """Return the advice that a better fit gives, in one sentence; empty where there is none."""
    if not found:
        return ""
    best = found[0]
    return (
        f"The accuracy is that of a wrong assumption: on {best.samples} images it is {percent(best.before)} %,"
        f" and {percent(best.accuracy)} % with {best.flags}. Run the command again with that."
    )


def trajectory_csv(analysis: Analysis) -> str:
    """Return the blocks as comma-separated values, one line a block, the JSON keys as header."""
    return analysis.trajectory.to_frame().to_csv(index=False, lineterminator="\n")


def trajectory_parquet(analysis: Analysis) -> bytes:
    """Return the same as a Parquet file; figures that were not measured are null."""
    buffer = BytesIO()
    frame = analysis.trajectory.to_frame()
    # A column of None alone would have no type that readers agree on.
    optional = ["exit_accuracy", "exit_loss", "drop_change_relative", "drop_agreement"]
    frame.astype(dict.fromkeys(optional, "float64")).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _end_of(path: str) -> str:
    """Return a block's name, or its end, which is what tells it from others."""
    return path if len(path) <= _NAME else f"\u2026{path[1 - _NAME :]}"


def _bar(value: float, largest: float) -> str:
    eighths = round(8 * _BAR * value / largest) if largest > 0 else 0
    full, rest = divmod(eighths, 8)
    return "\u2588" * full + (chr(0x2590 - rest) if rest else "")


def _assumed(assumption: Assumption) -> str:
    flags = " or ".join(assumption.flag(value) for value in assumption.others)
    text = f"{assumption.name} {assumption.value}: {assumption.meaning}"
    return f"{text}; else {flags}" if flags else text


def epoch(outcome: FinetuneOutcome) -> str:
    """Return one line about the last epoch of a run."""
    row = outcome.rows[-1]
    parts = [f"epoch {row.epoch}/{outcome.epochs}"]
    if row.train_loss is not None:
        parts.append(f"loss {row.train_loss:.3f}")
    if row.final is not None:
        known = row.final.accuracy is not None
        parts.append(f"held-out {percent(row.final.accuracy)} %" if known else "held-out images have no labels")
    if row.exits:
        exits = [own.accuracy or 0.0 for own in row.exits]
        parts.append(f"exits {percent(sum(exits) / len(exits))} %")
        parts.append(f"last stage's {percent(row.last_stage_accuracy)} %")
    if row.zero_branches or outcome.recipe.vanish:
        parts.append(f"zero branches {len(row.zero_branches)}")
    parts.append(f"{row.seconds:.0f} s" + (" (before training)" if row.steps == 0 else ""))
    return "  ".join(parts) + ("  best" if row.best and row.steps else "")


def finetune(outcome: FinetuneOutcome) -> RenderableType:
    """Return the exits before and after, and where the run ended."""
    first, best = outcome.rows[0], outcome.best
    table = FigureTable()
    for title in ("", "before", "after"):
        table.add_column(title, justify="right" if title else "left")
    if first.final is not None and best.final is not None and first.final.accuracy is not None:
        table.add_row("accuracy %", percent(first.final.accuracy), percent(best.final.accuracy))
        table.add_row("loss", number(first.final.loss), number(best.final.loss))
        for k, (before, after) in enumerate(zip(first.exits, best.exits, strict=True)):
            table.add_row(f"exit {k} accuracy %", percent(before.accuracy), percent(after.accuracy))
    table.add_row("zero branches", str(len(first.zero_branches)), str(len(best.zero_branches)))
    where = "nothing was held out: this is the last epoch"
    if outcome.held_out is not None:
        where = f"on {held_out(outcome.held_out)}"
        if best.score is None:
            where += ", which have no labels to choose by: this is the last epoch"
    lines = [f"Epoch {best.epoch} of {outcome.epochs} is kept ({where})."]
    if first.score is not None and best.score is not None and first.score < best.score:
        lines.append(
            f"There the network erred less before the training: its score was {number(first.score)}, now it is"
            f" {number(best.score)}. A lower --rate, more images or more epochs may help."
        )
    return Group(table, Text(), *map(Text, lines))
