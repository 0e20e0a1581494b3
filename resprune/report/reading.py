"""The JSON of ``resprune analyze`` back into records, checked value by value.

A file can hold anything. What is not as `resprune.report.results` writes it is refused with the place in it.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resprune.errors import ResultError, printable
from resprune.records import (
    Analysis,
    Architecture,
    Band,
    BlockRow,
    Bounds,
    Classwise,
    DataSummary,
    Evaluation,
    FrontierStudy,
    NetworkSummary,
    Origin,
    Preprocessing,
    Study,
    Trajectory,
)
from resprune.report import tradeoff
from resprune.report.places import HINT, Place, amount, count, fraction, listed, made, number, or_none, text

SCHEMA = "resprune/analyze/1"
LARGEST = 64 << 20
"""Bytes that a result may have; a thousand blocks take half a megabyte."""


def read(path: Path, name: str) -> Study | FrontierStudy:
    """Read one file: an analysis or a frontier.

    Args:
        path: Of the JSON.
        name: For legends and headings.

    Raises:
        ResultError: where the file cannot be read, or is no result of either command.
    """
    try:
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "there is no such file"
            raise ResultError(what, where=path, hint=HINT)
        if path.stat().st_size > LARGEST:
            raise ResultError(f"is larger than {LARGEST:,} bytes", where=path, hint=HINT)
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"cannot be read ({error.strerror or error})", where=path) from error
    except (ValueError, RecursionError) as error:
        raise ResultError(f"is no JSON ({type(error).__name__})", where=path, hint=HINT) from error
    return result(content, name, where=path)


def result(content: Any, name: str, *, where: object = None) -> Study | FrontierStudy:
    """Return what a result of a command says, checked value by value.

    Raises:
        ResultError: where it is none that can be drawn.
    """
    if isinstance(content, dict) and content.get("schema") == tradeoff.SCHEMA:
        return tradeoff.frontier(content, name, where=where)
    return study(content, name, where=where)


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return a short name for every file, no two alike: its stem, with the folder where that is needed."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{path.stem}" for path in paths]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, 1)]
    return [printable(name) for name in names]


def study(content: Any, name: str, *, where: object = None) -> Study:
    """Return what a JSON object says; see `read`."""
    top = Place(content, "", where)
    found = top.get("schema", text)
    if found != SCHEMA:
        raise ResultError(f"the schema is {found!r} instead of {SCHEMA!r}", where=where, hint=HINT)
    rows = tuple(_row(place, index) for index, place in enumerate(top.items("blocks")))
    if any(after.stage < before.stage for before, after in itertools.pairwise(rows)):
        raise top.error("blocks", "the stages are not in order")
    depth = top.get("suggested_depth", count)
    if depth > len(rows):
        raise top.error("suggested_depth", f"{depth} of {len(rows)} blocks")
    data, final, classes = top.inner("data"), top.inner("final"), top.inner("classwise", optional=True)
    trajectory = Trajectory(
        Evaluation(
            final.get("accuracy", or_none(fraction)),
            None,
            final.get("loss", or_none(amount)),
            data.get("samples", count),
        ),
        rows,
        final.get("logits_norm", amount, default=math.nan),
        None if classes is None else _classwise(classes, len(rows)),
    )
    summary = DataSummary(
        data.get("spec", text), data.get("split", or_none(text)), trajectory.final.samples, _recipe(data)
    )
    network = _network(top.inner("checkpoint"), rows)
    bounds = top.inner("bounds", optional=True)
    control = top.inner("control", optional=True)
    return Study(
        name=name,
        analysis=Analysis(
            network,
            summary,
            trajectory,
            top.get("tolerance", amount),
            depth,
            None if control is None else _control(control),
        ),
        version=top.get("version", text),
        made=made(top),
        bounds=None if bounds is None else _bounds(bounds),
        sub_path="" if bounds is None else bounds.inner("sub").get("path", text),
    )


def _row(place: Place, index: int) -> BlockRow:
    if place.get("index", count) != index:
        raise place.error("index", f"{place.value['index']} instead of {index}")
    return BlockRow(
        index=index,
        path=place.get("path", text),
        stage=place.get("stage", count),
        exit_accuracy=place.get("exit_accuracy", or_none(fraction)),
        exit_loss=place.get("exit_loss", or_none(amount)),
        residual_norm=place.get("residual_norm", amount),
        residual_norm_relative=place.get("residual_norm_relative", amount),
        parameter_norm=place.get("parameter_norm", amount),
        drop_change_relative=place.get("drop_change_relative", or_none(amount)),
        drop_agreement=place.get("drop_agreement", or_none(fraction)),
        macs=place.get("macs", count),
        parameters=place.get("parameters", count),
    )


def _network(place: Place, rows: Sequence[BlockRow]) -> NetworkSummary:
    if place.get("blocks", count) != len(rows):
        raise place.error("blocks", f"{place.value['blocks']}, and {len(rows)} are listed")
    numbers = [row.stage for row in rows]
    stages = tuple("b" * numbers.count(stage) for stage in sorted(set(numbers)))
    return NetworkSummary(
        Origin(place.get("path", text), place.get("sha256", text), ""),
        Architecture(place.get("family", text), place.get("architecture", text), stages),
        len(rows),
        place.get("parameters", count),
        place.get("macs", count),
    )


def _recipe(data: Place) -> Preprocessing | None:
    place = data.inner("preprocessing", optional=True)
    if place is None:
        return None
    try:
        return Preprocessing.from_json(place.value, place.get("source", text))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise data.error("preprocessing", f"no recipe ({error})") from error


def _control(place: Place) -> Band:
    removed = place.value.get("removed")
    blocks = len(removed) if isinstance(removed, list) else place.get("removed", count)
    changes = place.values("change_relative", amount)
    if not changes:
        raise place.error("change_relative", "no repetition")
    return Band(blocks, changes, place.values("agreement", fraction))


def _classwise(place: Place, depth: int) -> Classwise:
    counts = place.values("counts", count)
    accuracy = place.values("accuracy", lambda row: [or_none(fraction)(value) for value in listed(row)])
    if [len(row) for row in accuracy] != [len(counts)] * (depth + 1):
        raise place.error("accuracy", f"not {depth + 1} exits of {len(counts)} classes")
    names = None if place.value.get("names") is None else place.values("names", text)
    if names is not None and len(names) > len(counts):
        raise place.error("names", f"{len(names)} of {len(counts)} classes")
    hits = tuple(
        tuple(round((value or 0.0) * own) for value, own in zip(row, counts, strict=True)) for row in accuracy
    )
    return Classwise(counts, hits, names)


def _bounds(place: Place) -> Bounds:
    first, second = place.inner("bound_1"), place.inner("bound_2")
    return Bounds(
        sub_blocks=place.inner("sub").get("blocks", count),
        gamma=place.get("gamma", amount),
        branch_decay=place.get("lambda", amount),
        sub_loss=place.get("L_bar", amount),
        objective=first.get("J", amount),
        objective_bound=first.get("J_bar", amount),
        average_loss=second.get("L_avg", amount),
        average_loss_bound=second.get("L_bar_avg", number),
    )
