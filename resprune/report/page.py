"""Analyses as one HTML page that needs nothing else: no network, no script to be read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from resprune.extras import from_extra
from resprune.plurals import counted
from resprune.records import BlockRow, FrontierStudy, Study
from resprune.report import plots, tradeoff, vector
from resprune.report.drawing import Plot
from resprune.report.palette import DARK, LIGHT
from resprune.report.wording import images_of, number, percent, recipe_of, suggestion

TEMPLATE = "page.html.jinja"
_COLUMNS = (
    "k",
    "block",
    "stage",
    "exit accuracy\n%",
    "exit loss\nnats",
    "residual norm\nlogits",
    "residual norm\nrelative",
    "drop change\nrelative",
    "drop agreement\n%",
    "branch norm\nL2",
    "MACs",
    "parameters",
)
_Cell = tuple[str, str]
"""What is shown, and what is sorted by."""


def check_extra() -> None:
    """Check that what draws and fills pages is installed.

    Raises:
        UsageError: with the command that installs it.
    """
    with from_extra("report", "reports and plots need"):
        import jinja2
        import matplotlib as mpl
    assert jinja2.__name__
    assert mpl.__name__


def render(results: Sequence[Study | FrontierStudy]) -> str:
    """Return the page of one analysis, or of several over one another, and of frontiers.

    Raises:
        UsageError: where matplotlib or jinja2 is missing.
    """
    check_extra()
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("resprune.report").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    studies = [own for own in results if isinstance(own, Study)]
    priced = [own for own in results if isinstance(own, FrontierStudy)]
    names = [own.name for own in results]
    several = len(studies) > 1

    def drawn(own: Sequence[Plot]) -> list[dict[str, str]]:
        return [
            {
                "name": plot.name,
                "title": plot.title,
                "describe": plot.describe,
                "svg": Markup(vector.inline(plot)),
            }
            for plot in own
        ]

    return template.render(
        title=" and ".join(names) if len(names) < 3 else "Several networks",
        several=several,
        shown=[_shown(study) for study in studies],
        plots=drawn(plots.along(studies)),
        classes=drawn(plots.classwise(studies)),
        bounds=[_terms(study) for study in studies if study.bounds is not None],
        columns=_COLUMNS,
        frontiers=[_priced(study) for study in priced],
        trades=drawn(tradeoff.plots(priced)),
        prices=tradeoff.COLUMNS,
        light=LIGHT,
        dark=DARK,
        version=version("resprune"),
        matplotlib=version("matplotlib"),
    )


def _shown(study: Study) -> dict[str, Any]:
    analysis = study.analysis
    rows, depth = analysis.trajectory.rows, analysis.suggested_depth
    stages = [
        [
            {"index": row.index, "path": row.path, "kept": row.index < depth}
            for row in rows
            if row.stage == stage
        ]
        for stage in sorted({row.stage for row in rows})
    ]
    return {
        "name": study.name,
        "suggestion": suggestion(analysis),
        "sentence": _sentence(study),
        "control": _control(study),
        "stages": stages,
        "rows": [_cells(row) for row in rows],
        "made": _made(study),
    }


def _priced(study: FrontierStudy) -> dict[str, Any]:
    images = "none" if study.data is None else images_of(study.data)
    made = [("checkpoint", study.path), ("SHA-256", study.sha256), ("images", images)]
    made += _how(study)
    return {"name": study.name, "rows": [tradeoff.cells(point) for point in study.points], "made": made}


def _sentence(study: Study) -> str:
    network, final = study.analysis.network, study.analysis.trajectory.final
    text = (
        f"{network.architecture.name} has {counted(network.blocks, 'block')}, {network.parameters:,} parameters"
        f" and {network.macs:,} multiply-accumulates an image."
    )
    if final.accuracy is None:
        return f"{text} The images have no labels, so there are no accuracies and losses."
    loss = "" if final.loss is None else f" and a loss of {final.loss:.4f} nats"
    images = images_of(study.analysis.data)
    return f"{text} It reaches an accuracy of {percent(final.accuracy)} %{loss} on {images}."


def _control(study: Study) -> str:
    control = study.analysis.control
    if control is None:
        return ""
    low, high = min(control.change_relative), max(control.change_relative)
    text = (
        f"Control: {counted(control.removed, 'block')} removed at random, {len(control.change_relative)} times,"
        f" change the output by {low:.2g} to {high:.2g} of its norm"
    )
    if control.agreement:
        text += f" and leave the top class on {percent(min(control.agreement))} to"
        text += f" {percent(max(control.agreement))} % of the images"
    return text + "."


def _cells(row: BlockRow) -> list[_Cell]:
    def small(value: float | None) -> _Cell:
        return ("", "") if value is None else (f"{value:.2e}", f"{value:.6g}")

    def plain(text: str) -> _Cell:
        return text, text

    texts = [str(row.index), row.path, str(row.stage + 1), percent(row.exit_accuracy), number(row.exit_loss)]
    return [
        *map(plain, texts),
        small(row.residual_norm),
        small(row.residual_norm_relative),
        small(row.drop_change_relative),
        plain(percent(row.drop_agreement)),
        plain(f"{row.parameter_norm:.3f}"),
        (f"{row.macs:,}", str(row.macs)),
        (f"{row.parameters:,}", str(row.parameters)),
    ]


def _terms(study: Study) -> list[str]:
    found = study.bounds
    assert found is not None
    losses = (
        found.sub_loss,
        found.objective,
        found.objective_bound,
        found.objective_gap,
        found.average_loss,
        found.average_loss_bound,
        found.average_loss_gap,
    )
    named = f"{study.name}, with {study.sub_path}"
    return [named, str(found.sub_blocks), f"{found.gamma:g}", f"{found.branch_decay:g}", *map(number, losses)]


def _made(study: Study) -> list[tuple[str, str]]:
    analysis = study.analysis
    lines = [
        ("checkpoint", analysis.network.origin.path),
        ("SHA-256", analysis.network.origin.sha256),
        ("network", f"{analysis.network.architecture.family}, {analysis.network.architecture.name}"),
        ("images", images_of(analysis.data)),
    ]
    recipe = analysis.data.preprocessing
    if recipe is not None:
        lines.append(("input", f"{recipe_of(recipe)} [{recipe.source}]"))
    return [*lines, ("tolerance", f"{analysis.tolerance:g}"), *_how(study)]


def _how(study: Study | FrontierStudy) -> list[tuple[str, str]]:
    made, lines = study.made, []
    if "seed" in made:
        lines.append(("seed", str(made["seed"])))
    others = "".join(f", {name} {text}" for name, text in made.get("versions", {}).items())
    lines.append(("versions", f"resprune {study.version}{others}"))
    if "command" in made:
        lines.append(("command", made["command"]))
    return lines
