"""What a gate found, for people: on the terminal, 80 columns wide, and as Markdown."""

from __future__ import annotations

import re
from pathlib import PurePath

from rich.console import Group, RenderableType
from rich.text import Text

from resprune.errors import printable
from resprune.records import CheckOutcome, Condition, NetworkSummary, Subject
from resprune.report.layout import FigureTable
from resprune.report.wording import images_of, input_lines

_STYLES = {"passed": "green", "failed": "bold red", "not measured": "yellow"}
_MARKS = {"passed": "✅", "failed": "❌", "not measured": "⚠️"}
_NAMED = re.compile(r"([\\`*_{}\[\]<>|#~&])")
"""What Markdown takes for markup in a name."""


def table(outcome: CheckOutcome) -> RenderableType:
    """Return every condition with its figure, interval, limit and verdict, and what it all comes to."""
    grid = FigureTable()
    grid.add_column("condition")
    for name in ("measured", "interval", "limit"):
        grid.add_column(name, justify="right")
    grid.add_column("verdict")
    for own in outcome.conditions:
        shown = figures(own)
        grid.add_row(own.name, *shown, Text(verdict(own), style=_STYLES[own.verdict]))
    lines: list[RenderableType] = [Text(subject(outcome)), *input_lines(outcome.data), Text(), grid, Text()]
    lines += [Text(f"{own.name}: {own.detail}.") for own in outcome.conditions if own.detail]
    return Group(*lines, Text(), Text(rule(outcome)), Text(conclusion(outcome)))


def markdown(outcome: CheckOutcome) -> str:
    """Return the same for a comment on a pull request or the summary of a step."""
    lines = [
        f"### {_MARKS[outcome.verdict]} resprune check: {outcome.verdict}",
        "",
        _plain(subject(outcome)),
        "",
        "| | condition | measured | interval | limit | verdict | |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for own in outcome.conditions:
        cells = [_MARKS[own.verdict], f"`{own.name}`", *figures(own), verdict(own), _plain(own.detail)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", rule(outcome), ""])


def subject(outcome: CheckOutcome) -> str:
    """Return what was checked, on one line."""
    text = _name(outcome.candidate)
    if outcome.against is not None:
        text += f" against {_name(outcome.against)}"
    return printable(text if outcome.data is None else f"{text}, {images_of(outcome.data)}")


def figures(condition: Condition) -> tuple[str, str, str]:
    """Return measured figure, interval and limit; the interval may be empty."""
    own, interval = condition.measured, condition.interval
    ends = (
        "" if interval is None else f"{_value(condition, interval.low)} to {_value(condition, interval.high)}"
    )
    sign = "<=" if condition.upper else ">="
    measured = "" if own is None else _value(condition, own)
    return measured + _unit(condition, measured), ends, f"{sign} {_value(condition, condition.limit)}"


def verdict(condition: Condition) -> str:
    """Return a condition's verdict in words."""
    return f"{condition.verdict}, within noise" if condition.within_noise else condition.verdict


def rule(outcome: CheckOutcome) -> str:
    """Return how the verdicts were reached."""
    if all(own.interval is None for own in outcome.conditions):
        return "Every figure decides by itself."
    share = f"{100 * outcome.confidence:g} %"
    if outcome.strict:
        return f"Every figure decides by itself (--strict). Intervals: {share} confidence."
    return (
        f"A condition fails where its whole {share} interval is beyond the limit; a figure beyond it whose"
        " interval reaches it is within noise, and passes."
    )


def conclusion(outcome: CheckOutcome) -> str:
    """Return what the verdicts come to."""
    total = len(outcome.conditions)
    counts = {word: sum(own.verdict == word for own in outcome.conditions) for word in _STYLES}
    said = f"{counts['passed']} of {total} conditions hold" if total > 1 else "1 condition"
    others = [f"{counts[word]} {word}" for word in ("failed", "not measured") if counts[word] and total > 1]
    return f"{outcome.verdict.capitalize()}: {', '.join([said, *others])}."


def said(condition: Condition) -> str:
    """Return a condition with all that is known of it, in one line."""
    measured, ends, limit = figures(condition)
    text = f"{condition.name}: {measured or 'not measured'}, limit {limit}"
    text += f", interval {ends}" if ends else ""
    text += ", within noise" if condition.within_noise else ""
    return printable(f"{text} ({condition.detail})" if condition.detail else text)


def _value(condition: Condition, value: float) -> str:
    match condition.unit:
        case "MACs" | "parameters" | "bytes" | "files":
            return f"{value:,.0f}"
        case "points":
            return f"{round(value, 2) + 0.0:.2f}"
        case "nats":
            return f"{round(value, 4) + 0.0:.4f}"  # no minus before zero
        case "fraction":
            return f"{100 * value:.2f} %"
        case "times":
            return f"{value:.3f}"
        case _:
            return f"{value:.3g}"


def _unit(condition: Condition, measured: str) -> str:
    units = {"points": " points", "nats": " nats", "bytes": " bytes", "times": " times"}
    return units.get(condition.unit, "") if measured else ""


def _name(own: Subject) -> str:
    path = (own.origin if isinstance(own, NetworkSummary) else own).path
    return PurePath(path).name or path


def _plain(text: str) -> str:
    return _NAMED.sub(r"\\\1", printable(text))
