"""What a gate found, for programs: GitHub's annotations, JUnit XML, flat metrics."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from resprune.records import CheckOutcome, Condition
from resprune.report.checking import conclusion, rule, said, subject

_LEVELS = {"passed": "notice", "failed": "error", "not measured": "error"}


def github(outcome: CheckOutcome) -> str:
    """Return an annotation a line for every condition, as GitHub reads them from a step's output."""
    lines = []
    for own in outcome.conditions:
        level = "warning" if own.within_noise else _LEVELS[own.verdict]
        lines.append(annotation(level, f"resprune check: {own.name} {own.verdict}", said(own)))
    return "\n".join(lines)


def annotation(level: str, title: str, message: str) -> str:
    """Return one annotation; see GitHub's documentation on workflow commands.

    Args:
        level: ``notice``, ``warning`` or ``error``.
        title: Shown above the message.
        message: Of any characters.
    """
    return f"::{level} title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, others: str = "") -> str:
    """Write what would end a command, or a property of it, as its code; the per cent sign first."""
    for character in "%\r\n" + others:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def junit(outcome: CheckOutcome) -> str:
    """Return JUnit XML, a test case for every condition: a failure if it failed, an error if not measured."""
    counts = {
        "tests": len(outcome.conditions),
        "failures": sum(own.verdict == "failed" for own in outcome.conditions),
        "errors": sum(own.verdict == "not measured" for own in outcome.conditions),
    }
    totals = {name: str(count) for name, count in counts.items()}
    suites = ET.Element("testsuites", {"name": "resprune check"} | totals)
    suite = ET.SubElement(suites, "testsuite", {"name": subject(outcome), "skipped": "0"} | totals)
    for own in outcome.conditions:
        case = ET.SubElement(suite, "testcase", classname="resprune.check", name=own.name)
        _result(case, own)
    ET.SubElement(suite, "system-out").text = f"{rule(outcome)}\n{conclusion(outcome)}"
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode")


def _result(case: ET.Element, condition: Condition) -> None:
    text = said(condition)
    if condition.verdict == "passed":
        ET.SubElement(case, "system-out").text = text
        return
    kind = "failure" if condition.verdict == "failed" else "error"
    ET.SubElement(case, kind, message=text, type=condition.verdict).text = text


def metrics(outcome: CheckOutcome) -> dict[str, float]:
    """Return the numbers of a check under one name each, as experiment trackers take them."""
    found: dict[str, float] = {"passed": int(outcome.verdict == "passed")}
    if outcome.data is not None:
        found["samples"] = outcome.data.samples
    for prefix, own in (("", outcome.figures), ("against/", outcome.figures_against)):
        if own is not None:
            known = {"accuracy": own.accuracy, "loss": own.loss}
            found |= {f"{prefix}{name}": value for name, value in known.items() if value is not None}
    for own in outcome.conditions:
        name = own.name.replace("-", "_")
        found |= {f"{name}/passed": int(own.verdict == "passed"), f"{name}/limit": own.limit}
        if own.measured is not None:
            found[f"{name}/measured"] = own.measured
        if own.interval is not None:
            found |= {f"{name}/low": own.interval.low, f"{name}/high": own.interval.high}
    return found
