"""Frontiers: what pruned networks cost and are worth, read from JSON and drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from resprune.records import DataSummary, Evaluation, Figures, FrontierPoint, FrontierStudy
from resprune.report.drawing import Plot, line
from resprune.report.places import Place, amount, count, fraction, made, or_none, text
from resprune.report.wording import percent, ranges

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

SCHEMA = "resprune/frontier/1"
COLUMNS = (
    "blocks\nkept",
    "MACs",
    "parameters",
    "latency\nms",
    "cut\nnats",
    "cut\n%",
    "recovered\nnats",
    "recovered\n%",
    "removed",
)
_Price = Callable[[FrontierPoint], float]
_Worth = Callable[[Figures], float]


def frontier(content: Any, name: str, *, where: object = None) -> FrontierStudy:
    """Return what the JSON of ``resprune prune --frontier`` says, checked value by value.

    Raises:
        ResultError: where it is none.
    """
    top = Place(content, "", where)
    checkpoint, data = top.inner("checkpoint"), top.inner("data", optional=True)
    summary = None
    if data is not None:
        split = data.get("split", or_none(text))
        summary = DataSummary(data.get("spec", text), split, data.get("samples", count))
    points = tuple(_point(place) for place in top.items("frontier"))
    if not points or points[0].removed:
        raise top.error("frontier", "the first entry is not the original, which lacks no block")
    return FrontierStudy(
        name,
        checkpoint.get("path", text),
        checkpoint.get("sha256", text),
        summary,
        points,
        top.get("version", text),
        made(top),
    )


def _point(place: Place) -> FrontierPoint:
    return FrontierPoint(
        removed=place.values("removed", count),
        blocks=place.get("blocks", count),
        macs=place.get("macs", count),
        parameters=place.get("parameters", count),
        latency_ms=_spread(place.inner("latency_ms", optional=True)),
        raw=_figures(place.inner("raw")),
        recovered=_figures(place.inner("recovered")),
    )


def _spread(place: Place | None) -> tuple[float, float, float] | None:
    if place is None:
        return None
    median, width = place.get("median", amount), place.get("iqr", amount)
    if place.value.get("quartiles") is None:
        return median, max(median - width / 2, 0.0), median + width / 2
    bounds = place.values("quartiles", amount)
    if len(bounds) != 2 or not bounds[0] <= median <= bounds[1]:
        raise place.error("quartiles", f"no bounds of {median:g}")
    return median, *bounds


def _figures(place: Place) -> Figures:
    accuracy, loss = place.get("accuracy", or_none(fraction)), place.get("loss", or_none(amount))
    return Figures(Evaluation(accuracy, None, loss, samples=0), place.get("divergence", amount))


def plots(studies: Sequence[FrontierStudy]) -> list[Plot]:
    """Return accuracy, or divergence where no images had labels, against MACs and against latency."""
    points = [point for study in studies for point in study.points]
    if not points:
        return []
    largest = max(point.macs for point in points)
    prefix, unit = ("10\u2079", 1e9) if largest >= 1e9 else ("10\u2076", 1e6)
    drawn = [_plot("macs", "MACs", f"MACs an image / {prefix}", lambda point: point.macs / unit, studies)]
    if any(point.latency_ms is not None for point in points):
        drawn.append(_plot("latency", "latency", "latency / ms (median; bar: middle half)", _latency, studies))
    return drawn


def _latency(point: FrontierPoint) -> float:
    return math.nan if point.latency_ms is None else point.latency_ms[0]


def _plot(key: str, title: str, axis: str, price: _Price, studies: Sequence[FrontierStudy]) -> Plot:
    said = ("right after the cut", "after recovery")
    labels = said
    if len(studies) > 1:
        labels = tuple(f"{i}. {study.name}, {word}" for i, study in enumerate(studies, 1) for word in said)
    labelled = any(own.raw.evaluation.accuracy is not None for study in studies for own in study.points)
    what, worth = ("Accuracy", _accuracy) if labelled else ("Divergence", _divergence)
    name = f"frontier-{key}"
    return Plot(
        name,
        f"{what} against {title}",
        f"{what} of networks with fewer and fewer blocks against their {title}",
        partial(_draw, name, axis, price, worth, studies),
        (),
        labels,
    )


def _draw(
    name: str,
    axis: str,
    price: _Price,
    worth: _Worth,
    studies: Sequence[FrontierStudy],
    axes: Axes,
    colours: Mapping[str, str],
) -> list[Artist]:
    curves: list[Artist] = []
    for study in studies:
        prices = [price(point) for point in study.points]
        for figures in ([point.raw for point in study.points], [point.recovered for point in study.points]):
            values = [worth(own) for own in figures]
            curves.append(line(axes, name, len(curves), values, colours, over=prices))
        if price is _latency:
            spreads = [point.latency_ms or (math.nan, math.nan, math.nan) for point in study.points]
            reach = [
                [median - low for median, low, _ in spreads],
                [high - median for median, _, high in spreads],
            ]
            axes.errorbar(
                prices, values, xerr=reach, fmt="none", ecolor=colours["muted"],
                elinewidth=0.8, zorder=2,
            )  # fmt: skip
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy / %" if worth is _accuracy else "divergence from the original / nats")
    return curves


def _accuracy(figures: Figures) -> float:
    accuracy = figures.evaluation.accuracy
    return math.nan if accuracy is None else 100 * accuracy


def _divergence(figures: Figures) -> float:
    return figures.divergence


def cells(point: FrontierPoint) -> list[tuple[str, str]]:
    """Return a row of the page's table: what is shown, and what is sorted by."""
    latency = ""
    if point.latency_ms is not None:
        median, low, high = point.latency_ms
        latency = f"{median:.3f} ({high - low:.3f})"
    return [
        (str(point.blocks), str(point.blocks)),
        (f"{point.macs:,}", str(point.macs)),
        (f"{point.parameters:,}", str(point.parameters)),
        (latency, "" if point.latency_ms is None else f"{point.latency_ms[0]:.6g}"),
        *_worth_of(point.raw),
        *_worth_of(point.recovered),
        (ranges(point.removed), str(len(point.removed))),
    ]


def _worth_of(figures: Figures) -> list[tuple[str, str]]:
    accuracy = percent(figures.evaluation.accuracy)
    divergence = f"{figures.divergence:#.3g}" if figures.divergence else "0"
    return [(divergence, f"{figures.divergence:.6g}"), (accuracy, accuracy)]
