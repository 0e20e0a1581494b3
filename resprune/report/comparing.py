"""Two networks side by side on the terminal, 80 columns wide."""

from __future__ import annotations

from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from resprune.plurals import counted
from resprune.records import (
    BenchOutcome,
    Comparison,
    Disagreement,
    NetworkSummary,
    Subject,
    Timing,
)
from resprune.report.wording import images_of, input_lines, number, percent

_SHOWN = 20
"""How many disagreements the terminal shows; the JSON object has more."""


def bench(outcome: BenchOutcome) -> RenderableType:
    """Return latency, throughput and memory, one network a column."""
    first, other, ratio = outcome.first, outcome.against, outcome.ratio
    timings = [first] if other is None else [first, other]
    latency = first.latency
    size = " x ".join(map(str, (latency.batch_size, *outcome.shape)))
    layout = ", channels last" if outcome.channels_last else ", contiguous"
    threads = counted(latency.threads, "thread")
    rounds = f"{latency.rounds:,} rounds, median (interquartile range)"
    head = Text(f"Input {size}{layout}, {latency.device}, {threads}; {rounds}")
    table = _columns([timing.subject for timing in timings])
    table.add_row("mode", *(timing.mode for timing in timings))
    table.add_row("latency ms", *map(_latency, timings))
    table.add_row("images a second", *(f"{timing.latency.throughput:,.1f}" for timing in timings))
    table.add_row("peak memory MB", *(_megabytes(timing.peak_bytes) for timing in timings))
    table.add_row("parameters", *(_count(timing.subject, "parameters") for timing in timings))
    table.add_row("MACs", *(_count(timing.subject, "macs") for timing in timings))
    if other is None or ratio is None:
        return Group(head, Text(), table)
    own, its = _names([timing.subject for timing in timings])
    words = (
        f"{own} takes {ratio.median:.3f} times as long as {its}"
        f" (middle half of the rounds: {ratio.low:.3f} to {ratio.high:.3f})."
    )
    if ratio.low <= 1 <= ratio.high:
        words += " The rounds do not agree on which is faster."
    return Group(head, Text(), table, Text(), Text(words))


def compare(comparison: Comparison) -> RenderableType:
    """Return where two networks agree, how far they differ, and on which images."""
    like, data = comparison.likeness, comparison.data
    subjects = [comparison.first, comparison.second]
    seen = "seeded noise: only the logits' differences mean something" if data is None else images_of(data)
    differences = Text(
        f"Logits differ by at most {like.max_abs_difference:.3g}, {like.max_rel_difference:.3g} of the largest."
    )
    if data is None:
        table = _columns(subjects)
        table.add_row("parameters", *(_count(own, "parameters") for own in subjects))
        table.add_row("MACs", *(_count(own, "macs") for own in subjects))
        return Group(Text(f"{like.samples} inputs of {seen}"), Text(), table, Text(), differences)
    table = _columns(subjects)
    if like.outcomes is not None:
        table.add_row("accuracy %", percent(like.first.accuracy), percent(like.second.accuracy))
        table.add_row("loss", number(like.first.loss), number(like.second.loss))
    table.add_row("parameters", *(_count(own, "parameters") for own in subjects))
    table.add_row("MACs", *(_count(own, "macs") for own in subjects))
    agreed = Text(
        f"Same top class on {percent(like.agreement)} % of the images ({like.differing:,} differ)."
        f" Divergence {like.divergence:.3g} nats."
    )
    parts: list[RenderableType] = [Text(seen), *input_lines(data), Text(), table, Text(), agreed, differences]
    if like.outcomes is not None:
        own, its = _names(subjects)
        counts = like.outcomes
        parts.append(
            Text(
                f"Right: both {counts.both:,}, only {own} {counts.only_first:,},"
                f" only {its} {counts.only_second:,}, neither {counts.neither:,}."
            )
        )
    if like.disagreements:
        parts += [Text(), *_disagreements(comparison)]
    return Group(*parts)


def _disagreements(comparison: Comparison) -> list[RenderableType]:
    found = comparison.likeness.disagreements
    labelled = any(own.label is not None for own in found)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("image", justify="right")
    if labelled:
        table.add_column("label", overflow="fold")
    for name in _names([comparison.first, comparison.second]):
        table.add_column(name, overflow="fold")
    table.add_column("where", overflow="fold")
    for own in found[:_SHOWN]:
        table.add_row(*_cells(own, comparison.class_names, labelled))
    more = comparison.likeness.differing - min(len(found), _SHOWN)
    lines: list[RenderableType] = [table]
    if more:
        lines.append(Text(f"... and {more:,} more; --json lists {comparison.limit:,} at most."))
    return lines


def _cells(own: Disagreement, names: tuple[str, ...] | None, labelled: bool) -> list[str]:
    labels = ([own.label] if labelled else []) + [own.first, own.second]
    told = ["" if label is None else names[label] if names else str(label) for label in labels]
    name = PurePath(own.image).name
    _, row, number_of_row = name.rpartition(", row ")  # of a Parquet file
    return [str(own.index), *told, f"row {number_of_row}" if row else name]


def _columns(subjects: list[Subject]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("")
    for name in _names(subjects):
        table.add_column(name, justify="right", overflow="fold")
    return table


def _names(subjects: list[Subject]) -> list[str]:
    """Return short names of the files; whole ones where the short are the same."""
    paths = [(own.origin if isinstance(own, NetworkSummary) else own).path for own in subjects]
    names = [PurePath(path).name or path for path in paths]
    return names if len(set(names)) == len(names) else paths


def _latency(timing: Timing) -> str:
    return f"{timing.latency.median_ms:.3f} ({timing.latency.iqr_ms:.3f})"


def _megabytes(value: int | None) -> str:
    return "not measured" if value is None else f"{value / 1e6:,.2f}"


def _count(subject: Subject, name: str) -> str:
    return f"{getattr(subject, name):,}" if isinstance(subject, NetworkSummary) else "not known"
