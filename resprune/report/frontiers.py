"""All depths of a network on the terminal, 80 columns wide."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from resprune.plurals import counted
from resprune.records import Figures, Frontier, Point
from resprune.report.layout import FigureTable
from resprune.report.wording import images_of, input_lines, percent


def table(found: Frontier) -> RenderableType:
    """Return one row for each depth: what goes, sizes and time in per cent, accuracy or else divergence."""
    labelled = found.points[0].raw.evaluation.accuracy is not None
    grid = FigureTable(spare=(3, 5))
    unit = "acc %" if labelled else "nats"
    changed = any(point.recovered != point.raw for point in found.points)
    figures = ("raw", "statistics", "recovered") if changed else ("raw",)
    titles = ("blocks", "without", "MACs\n%", "params\n%", "time\n%", "ms")
    for title in (*titles, *(f"{name}\n{unit}" for name in figures)):
        grid.add_column(title, justify="right")
    whole = found.points[0]
    for index, point in enumerate(found.points):
        grid.add_row(
            str(point.blocks),
            "" if not index else f"{'+ ' if index > 1 else ''}{found.order[index - 1]}",
            f"{100 * point.macs / whole.macs:.1f}",
            f"{100 * point.parameters / whole.parameters:.1f}",
            f"{100 * point.latency.ratio_to(whole.latency).median:.1f}",
            f"{point.latency.median_ms:.2f}",
            *(_output(getattr(point, name), labelled=labelled) for name in figures),
        )
    latency, images = whole.latency, whole.latency.batch_size
    threads = counted(latency.threads, "thread")
    batch = f"batch of {images}" if images > 1 else "one image"
    done = "chosen and recovered" if changed else "chosen"
    lines = [
        f"Time: {batch}, {threads}, {latency.device}, eager mode, {latency.rounds} rounds in turns, medians.",
        "The network of a row: prune --remove with the blocks of that row and of those above it.",
        f"Order: {found.method}; {done} on those of {images_of(found.choice)} that do not judge.",
    ]
    head = f"{found.network.architecture.name}, {images_of(found.data)}, held out"
    return Group(Text(head), *input_lines(found.data), grid, Text(), *map(Text, lines))


def _output(own: Figures | None, *, labelled: bool) -> str:
    if own is None:
        return ""
    return percent(own.evaluation.accuracy) if labelled else f"{own.divergence:.3g}"


def point(measured: Point) -> str:
    """Return what one depth is worth, as soon as it is measured."""
    raw, own = measured.raw, measured.recovered
    labelled = own.evaluation.accuracy is not None
    before, after = (_output(figures, labelled=labelled) for figures in (raw, own))
    told = f"{before} %" if labelled else f"divergence {before} nats"
    if own != raw:
        told += f", {after}{' %' if labelled else ''} recovered"
    return f"{counted(measured.blocks, 'block')}: {told}"
