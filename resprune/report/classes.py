"""Accuracies of classes: as a table on the terminal, and as a heat map of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from resprune.records import Analysis, Classwise, Study
from resprune.report.drawing import Plot
from resprune.report.layout import FigureTable

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_SHOWN = 20
"""Classes in the table of the terminal."""
_DRAWN = 100
"""Classes in a heat map; of more, the `_ENDS` worst and best."""
_ENDS = 20
_NAMED = 40
"""Classes whose names have room beside a heat map's rows as they are."""
_NUMBERED = (20, 24)
"""Classes and exits that leave room for a number in every cell."""
STRONGEST = 0.5
"""Opacity of 100 %: ink on it, in light and in dark, stays readable."""
_LEGEND = (0.0, 0.25, 0.5, 0.75, 1.0)
_NAME = 12
"""Characters of a name beside a heat map."""


def csv(analysis: Analysis) -> str:
    """Return comma-separated values, one line a class."""
    return _of(analysis).to_frame().to_csv(index=False, lineterminator="\n")


def table(analysis: Analysis) -> RenderableType:
    """Return the accuracy of every class, or of those that are worst in the end, at a few of the exits."""
    found, depth = _of(analysis), analysis.trajectory.depth
    exits = sorted({round(depth * part / 5) for part in range(6)} | {analysis.suggested_depth})
    labels = [label for label in range(len(found.counts)) if found.counts[label]]
    worst = sorted(labels, key=lambda label: (found.accuracy(depth, label) or 0.0, label))
    lines: list[RenderableType] = [Text(), Text("Accuracy of classes at exits, %")]
    if len(labels) > _SHOWN:
        lines = [Text(), Text(f"Accuracy at exits, %, of the {_SHOWN} of {len(labels)} classes that are worst")]
    grid = FigureTable(gap=1)
    grid.add_column("class", no_wrap=True, max_width=20)
    for title in ("images", *(f"exit {k}" if k < depth else "output" for k in exits)):
        grid.add_column(title, justify="right")
    for label in worst[:_SHOWN] if len(labels) > _SHOWN else labels:
        accuracies = [100 * (found.accuracy(k, label) or 0.0) for k in exits]
        grid.add_row(found.name(label), f"{found.counts[label]:,}", *(f"{own:.2f}" for own in accuracies))
    return Group(*lines, grid)


def heat_map(study: Study, name: str, title: str) -> Plot:
    """Return classes by exits, the darker the more accurate; with numbers where there is room."""
    found = _of(study.analysis)
    labels = [label for label in range(len(found.counts)) if found.counts[label]]
    describe = "Accuracy of every class at every exit in %, the stronger the colour the higher"
    if len(labels) > _DRAWN:
        last = len(found.hits) - 1
        ranked = sorted(labels, key=lambda label: (found.accuracy(last, label) or 0.0, label))
        labels = ranked[:_ENDS] + ranked[-_ENDS:]
        describe = (
            f"Accuracy at every exit, in %, of the {_ENDS} classes that are worst at the output and, below the"
            f" line, the {_ENDS} best of {len(ranked)}"
        )
    row = 0.17 if len(labels) <= _NAMED else 0.115
    return Plot(
        name,
        title,
        describe,
        partial(_draw, name, found, labels, len(labels) < sum(map(bool, found.counts))),
        (study,),
        tuple(f"{100 * part:.0f} %" for part in _LEGEND),
        height=0.7 + row * max(len(labels), 4),
        grid=False,
    )


def _draw(
    name: str, found: Classwise, labels: Sequence[int], cut: bool, axes: Axes, colours: Mapping[str, str]
) -> list[Artist]:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    exits = range(len(found.hits))
    strengths = [[STRONGEST * (found.accuracy(k, label) or 0.0) for k in exits] for label in labels]
    # One small image, however many cells there are; as strong as it is opaque, so it suits light and dark.
    cells = axes.imshow(
        [[(*to_rgb(colours["accent"]), strength) for strength in row] for row in strengths],
        extent=(-0.5, len(exits) - 0.5, len(labels) - 0.5, -0.5),
        aspect="auto",
        interpolation="none",
    )
    cells.set_gid(f"{name}-cells")
    if len(labels) <= _NUMBERED[0] and len(exits) <= _NUMBERED[1]:
        for y, label in enumerate(labels):
            for k in exits:
                text = f"{100 * (found.accuracy(k, label) or 0.0):.0f}"
                axes.text(k, y, text, color=colours["ink"], fontsize=6, ha="center", va="center_baseline")
    if cut:
        axes.axhline(_ENDS - 0.5, color=colours["ink"], linewidth=1)
    small = len(labels) > _NAMED
    axes.set_yticks(range(len(labels)), [_short(found.name(label)) for label in labels])
    axes.tick_params(axis="y", labelsize=6.5 if small else 7.5, length=2)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_ylabel("class")
    axes.set_xlabel("exit k (N: output)")
    shades = [(colours["accent"], STRONGEST * part) for part in _LEGEND]
    return [Rectangle((0, 0), 1, 1, facecolor=shade, edgecolor=colours["muted"]) for shade in shades]


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}\u2026"


def _of(analysis: Analysis) -> Classwise:
    found = analysis.trajectory.classwise
    assert found is not None
    return found
