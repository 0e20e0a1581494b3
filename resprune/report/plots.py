"""The paper's Figures 2 to 5 and the effect of dropping blocks, for one analysis or several.

Every plot has one set of axes and is narrow enough to be read on a phone as it is. Curves differ in colour,
marker and dash. Points are grouped under ids ``PLOT-CURVE-points`` in the SVG, one ``<use>`` a point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from resprune.extras import from_extra
from resprune.records import Analysis, Band, FrontierStudy, Study
from resprune.report import tradeoff
from resprune.report.classes import heat_map
from resprune.report.drawing import Plot, line, logarithmic

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class _Quantity:
    """What is drawn over the exits or blocks of every study; `values` has one entry each, NaN for none."""

    name: str
    title: str
    unit: str
    describe: str
    values: Callable[[Study], list[float]]
    over: str = "block k"
    logarithmic: bool = False


def _exits(study: Study, key: str) -> list[float]:
    """Return a figure of exits 0..N, N being the network's output."""
    measured = study.analysis.trajectory
    rows = [getattr(row, f"exit_{key}") for row in measured.rows]
    return [math.nan if value is None else value for value in (*rows, getattr(measured.final, key))]


def _blocks(study: Study, key: str) -> list[float]:
    values = [getattr(row, key) for row in study.analysis.trajectory.rows]
    return [math.nan if value is None else value for value in values]


_QUANTITIES = (
    _Quantity(
        "accuracy",
        "Accuracy along the exits",
        "accuracy / %",
        "Accuracy of every exit; the last point is the network's output",
        lambda study: [100 * value for value in _exits(study, "accuracy")],
        over="exit k",
    ),
    _Quantity(
        "loss",
        "Loss along the exits",
        "cross-entropy / nats",
        "Mean cross-entropy of every exit; the last point is the network's output",
        lambda study: _exits(study, "loss"),
        over="exit k",
    ),
    _Quantity(
        "residual-norms",
        "Residual norms along depth",
        "residual norm / output norm (no unit)",
        "How far every block moves the exits' outputs, relative to the norm of the final output",
        lambda study: list(study.analysis.trajectory.residual_norms_relative),
        logarithmic=True,
    ),
    _Quantity(
        "parameter-norms",
        "Parameter norms along depth",
        "L2 norm of branch parameters (no unit)",
        "Norm of the parameters of every residual branch",
        lambda study: _blocks(study, "parameter_norm"),
    ),
)
"""The paper's Figures 2 and 3 (first two) and 4 and 5."""


def draw(analyses: Analysis | Mapping[str, Analysis]) -> dict[str, Plot]:
    """Return the plots of a report by their names: ``accuracy``, ``loss``, ``residual-norms``, ...

    A notebook shows them as they are; `Plot.svg` and `Plot.png` give files.

    Args:
        analyses: One, or several by the names that the legends have, drawn over one another.

    Raises:
        UsageError: where matplotlib is missing.
    """
    with from_extra("report", "reports and plots need"):
        import matplotlib as mpl
    assert mpl.__name__
    named = {"": analyses} if isinstance(analyses, Analysis) else analyses
    own = version("resprune")
    return {plot.name: plot for plot in plots([Study(name, one, own) for name, one in named.items()])}


def plots(studies: Sequence[Study | FrontierStudy]) -> list[Plot]:
    """Return what can be drawn of analyses and frontiers: what was measured in none of them is left out."""
    shown = [study for study in studies if isinstance(study, Study)]
    priced = [study for study in studies if isinstance(study, FrontierStudy)]
    return [*along(shown), *classwise(shown), *tradeoff.plots(priced)]


def along(studies: Sequence[Study]) -> list[Plot]:
    """Return the plots of exits and blocks: those of all analyses, then the drop effects of each."""
    names = tuple(f"{number}. {study.name}" for number, study in enumerate(studies, 1))
    made = [
        Plot(
            own.name,
            own.title,
            own.describe,
            partial(_draw_quantity, own, studies),
            tuple(studies),
            names if len(studies) > 1 else (),
        )
        for own in _QUANTITIES
        if any(not math.isnan(value) for study in studies for value in own.values(study))
    ]
    for index, study in enumerate(studies):
        if all(row.drop_change_relative is None for row in study.analysis.trajectory.rows):
            continue
        labels = ["output's change without block k alone", "residual norm of block k"]
        if study.analysis.control is not None:
            labels.append(_control_label(study.analysis.control))
        name, whose = _one_of(studies, index)
        name = f"drop-effects{name}"
        made.append(
            Plot(
                name,
                f"Effect of dropping each block{whose}",
                "Change of the final output when one block alone is dropped, and the block's residual norm",
                partial(_draw_effects, name, study),
                (study,),
                tuple(labels),
            )
        )
    return made


def classwise(studies: Sequence[Study]) -> list[Plot]:
    """Return the classes along the exits, a plot for every analysis that has them."""
    made = []
    for index, study in enumerate(studies):
        if study.analysis.trajectory.classwise is not None:
            name, whose = _one_of(studies, index)
            made.append(heat_map(study, f"classes{name}", f"Classes along the exits{whose}"))
    return made


def _one_of(studies: Sequence[Study], index: int) -> tuple[str, str]:
    """Return what tells a plot of one analysis from those of the others: in its name, in its title."""
    return ("", "") if len(studies) == 1 else (f"-{index + 1}", f": {studies[index].name}")


def _draw_quantity(
    own: _Quantity, studies: Sequence[Study], axes: Axes, colours: Mapping[str, str]
) -> list[Artist]:
    curves: list[Artist] = [
        line(axes, own.name, index, own.values(study), colours) for index, study in enumerate(studies)
    ]
    axes.set_ylabel(own.unit)
    axes.set_xlabel("exit k (N: output)" if own.over == "exit k" else "block k")
    if own.logarithmic:
        tolerance = min(study.analysis.tolerance for study in studies)
        bottom = logarithmic(axes, [value for study in studies for value in own.values(study)], tolerance)
        for tolerance in sorted({study.analysis.tolerance for study in studies}):
            if not bottom < tolerance < axes.get_ylim()[1]:
                continue
            axes.axhline(tolerance, color=colours["muted"], linewidth=1, linestyle=(0, (1, 2)), zorder=1)
            # Behind the curves, which may pass there.
            axes.text(
                0.01, tolerance, f"tolerance {tolerance:g}", transform=axes.get_yaxis_transform(),
                color=colours["muted"], fontsize=7.5, va="bottom", zorder=1,
            )  # fmt: skip
    return curves


def _draw_effects(name: str, study: Study, axes: Axes, colours: Mapping[str, str]) -> list[Artist]:
    changes = _blocks(study, "drop_change_relative")
    residuals = list(study.analysis.trajectory.residual_norms_relative)
    curves: list[Artist] = [
        line(axes, name, index, values, colours) for index, values in enumerate((changes, residuals))
    ]
    axes.set_ylabel("relative to the output norm (no unit)")
    axes.set_xlabel("block k")
    values = [value for value in (*changes, *residuals) if not math.isnan(value)]
    if study.analysis.control is not None:
        band = study.analysis.control.change_relative
        values += band
        low, high = min(band), max(band)
        colour = colours["curve2"]
        patch = axes.axhspan(
            low, high, facecolor="none", edgecolor=colour, linewidth=0.8, hatch="///", zorder=0
        )
        patch.set_gid(f"{name}-control")
        curves.append(patch)
    logarithmic(axes, values, study.analysis.tolerance)
    return curves


def _control_label(control: Band) -> str:
    count, times = control.removed, len(control.change_relative)
    return f"{count} random block{'s' if count != 1 else ''} removed ({times} time{'s' if times != 1 else ''})"
