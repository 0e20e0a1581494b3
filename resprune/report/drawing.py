"""How a plot is drawn: axes, curves, stages, legend; in any colours.

Curves differ in colour, marker and dash. The points of each are in a group of their own in the SVG.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from resprune.records import Study
from resprune.report.palette import CURVES, DASHES, LIGHT, MARKERS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH, HEIGHT = 4.4, 3.1
"""Inches; 317 points wide, less than the CSS pixels of a phone, so that no text is smaller than drawn."""
_ROW = 0.17
"""Inches of a legend's or a stage strip's line."""
_NOTEBOOK_DPI = 120
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "resprune",
    "text.parse_math": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Plot:
    """One set of axes.

    Attributes:
        name: Of its files and ids.
        title: What it shows, in a few words.
        describe: The same in a sentence, for those who cannot see it.
        draw: Draws into axes, in colours by name; returns the curves in the order of the labels.
        studies: Whose blocks or exits are along the x axis; none where something else is.
        curves: Labels of the legend; none for a single curve.
        height: Of the figure without strips and legend, inches.
        grid: Whether the ticks of the y axis have lines.
    """

    name: str
    title: str
    describe: str
    draw: Callable[[Axes, Mapping[str, str]], list[Artist]] = field(repr=False)
    studies: tuple[Study, ...] = field(repr=False)
    curves: tuple[str, ...] = ()
    height: float = field(default=HEIGHT, repr=False)
    grid: bool = field(default=True, repr=False)

    def svg(self, colours: Mapping[str, str] = LIGHT) -> str:
        """Return an SVG file."""
        buffer = StringIO()
        with figure_of(self, colours) as figure:
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(buffer, format="svg", metadata=nothing)
        return buffer.getvalue()

    def png(self, dpi: int = 200) -> bytes:
        """Return a PNG file, in the light colours, so many dots an inch."""
        buffer = BytesIO()
        with figure_of(self, LIGHT) as figure:
            figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self.png(_NOTEBOOK_DPI)


@contextmanager
def figure_of(plot: Plot, colours: Mapping[str, str]) -> Iterator[Figure]:
    """Yield a drawn figure; names of any script may miss glyphs here, which a browser has."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layouts = list(dict.fromkeys(study.stages for study in plot.studies))
    strips, lines = _ROW * len(layouts), _ROW * math.ceil(len(plot.curves) / _columns(plot.curves))
    height = plot.height + strips + lines
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=(WIDTH, height), facecolor=colours["paper"])
        canvas = FigureCanvasAgg(figure)
        bottom, top = 0.5 + (lines + 0.06 if lines else 0), height - 0.12 - strips
        box = _box(0.8, bottom, top, height)
        axes = figure.add_axes(box, facecolor=colours["paper"])
        handles = plot.draw(axes, colours)
        words = axes.yaxis.get_tightbbox(canvas.get_renderer())
        if words is not None:  # names of classes can be long
            box = _box(max(0.8, (box[0] * WIDTH) - words.x0 / figure.dpi + 0.06), bottom, top, height)
            axes.set_position(box)
        _dress(axes, colours, grid=plot.grid)
        if plot.studies:
            _along_blocks(axes, max(study.analysis.trajectory.depth for study in plot.studies))
        for row, layout in enumerate(reversed(layouts)):
            strip = (box[0], (top + 0.03 + row * _ROW) / height, box[2], (_ROW - 0.02) / height)
            _stages(figure.add_axes(strip, sharex=axes), layout, colours, plot, alone=len(layouts) == 1)
            if len(layouts) == 1:
                for edge in _edges(layout)[1:-1]:
                    axes.axvline(edge - 0.5, color=colours["rule"], linewidth=0.8, zorder=0)
        if plot.curves:
            figure.legend(
                handles,
                plot.curves,
                loc="lower center",
                ncols=_columns(plot.curves),
                frameon=False,
                fontsize=8,
                labelcolor=colours["ink"],
                borderaxespad=0.2,
                labelspacing=0.35,
                handlelength=3.2 if _columns(plot.curves) < 3 else 1.4,
                columnspacing=1.2,
            )
        yield figure


def _box(left: float, bottom: float, top: float, height: float) -> tuple[float, float, float, float]:
    """Return a place for axes in shares of the figure; from edges in inches."""
    return left / WIDTH, bottom / height, (WIDTH - left - 0.12) / WIDTH, (top - bottom) / height


def line(
    axes: Axes,
    plot: str,
    index: int,
    values: Sequence[float],
    colours: Mapping[str, str],
    *,
    over: Sequence[float] | None = None,
) -> Line2D:
    """Draw one curve over 0, 1, ... or given numbers; its points are in the group ``PLOT-INDEX-points``."""
    (line,) = axes.plot(
        range(len(values)) if over is None else over,
        values,
        color=colours[f"curve{index % CURVES}"],
        linewidth=1.4,
        marker=MARKERS[index % len(MARKERS)],
        markersize=3.4 if len(values) > 30 else 4.6,
        markeredgewidth=0.8,
        # Of curves that run together, the one below shows through.
        markerfacecolor="none" if index % 2 else None,
        zorder=3,
        clip_on=False,
    )
    dashes = DASHES[index % len(DASHES)]
    if dashes:
        line.set_dashes(dashes)
    line.set_gid(f"{plot}-{index}-points")
    return line


def logarithmic(axes: Axes, values: Sequence[float], tolerance: float) -> float:
    """Scale the y axis by the logarithm, linearly close to zero where values are; returns its lower end.

    Branches can be exactly zero, and what is far below the tolerance tells no more than that.
    """
    from matplotlib.ticker import SymmetricalLogLocator

    known = [value for value in values if not math.isnan(value)]
    smallest, largest = min(known, default=1.0), max(known, default=1.0) or 1.0
    low = _decade(min(tolerance or 1e-3, largest)) / 10
    # A scale that is linear below its own lower end is a plain logarithm.
    linear = low if smallest < low else _decade(smallest)
    bottom = 0.0 if smallest < low else linear
    axes.set_yscale("symlog", linthresh=linear, linscale=0.5)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(bottom, 2 * largest)
    return bottom


def _decade(value: float) -> float:
    """Return the power of ten at or below a positive value, not so small that no axis could show it."""
    return 10.0 ** math.floor(math.log10(max(value, 1e-12)))


def _columns(labels: Sequence[str]) -> int:
    """Return how many labels of a legend have room beside each other."""
    longest = max(map(len, labels), default=0)
    return min(len(labels), 5 if longest <= 5 else 2 if longest <= 20 else 1) or 1


def _edges(layout: Sequence[int]) -> list[int]:
    """Return the first block of every stage, and N."""
    return [sum(layout[:stage]) for stage in range(len(layout) + 1)]


def _stages(axes: Axes, layout: Sequence[int], colours: Mapping[str, str], plot: Plot, *, alone: bool) -> None:
    """Draw a strip with the stages of the networks that have this layout."""
    axes.set_axis_off()
    axes.set_ylim(0, 1)
    edges = _edges(layout)
    whose = [str(i + 1) for i, study in enumerate(plot.studies) if study.stages == tuple(layout)]
    if not alone:
        which = ",".join(whose) if len(whose) <= 3 else f"{whose[0]},\u2026"
        axes.text(
            -0.01, 0.5, f"no. {which}", transform=axes.transAxes, color=colours["muted"], fontsize=7,
            ha="right", va="center",
        )  # fmt: skip
    for stage, (start, stop) in enumerate(itertools.pairwise(edges)):
        axes.axvspan(
            start - 0.44, stop - 0.56, facecolor=colours["panel"], edgecolor=colours["rule"], linewidth=0.8
        )
        share = (stop - start) / max(edges[-1], 1)
        text = f"stage {stage + 1}" if share > 0.16 else str(stage + 1) if share > 0.03 else ""
        axes.text(
            (start + stop - 1) / 2, 0.46, text, color=colours["ink"], fontsize=7.5, ha="center", va="center"
        )


def _along_blocks(axes: Axes, depth: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.6, depth + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))


def _dress(axes: Axes, colours: Mapping[str, str], *, grid: bool) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours["muted"])
    axes.tick_params(colors=colours["muted"], labelcolor=colours["ink"], which="both")
    axes.xaxis.label.set_color(colours["ink"])
    axes.yaxis.label.set_color(colours["ink"])
    if grid:
        axes.grid(axis="y", color=colours["rule"], linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
