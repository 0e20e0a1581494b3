"""The commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from resprune.cli import options, reporting, shell
from resprune.cli.checking import check
from resprune.cli.common import Application, Commands
from resprune.cli.comparing import bench, compare
from resprune.cli.exporting import export
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.cli.pruning import prune
from resprune.cli.reporting import report
from resprune.cli.training import finetune

Opened = Callable[[], Open]

app = Application(
    name="resprune",
    cls=Commands,
    help="Prune trained ResNets block by block, see what every block does, and ship a plain model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would swallow "[default: ...]"
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"resprune {version('resprune')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(short_help="What a checkpoint is: family, blocks, parameters, MACs")
@opens_a_checkpoint
def inspect(
    opened: Opened,
    check: Annotated[
        bool, typer.Option("--check", help="Read the numbers too: finite, and every block is skip plus branch.")
    ] = False,
    as_json: options.Json = False,
    threads: options.Threads = None,
    debug: options.Debug = False,
) -> None:
    """Say what a checkpoint is: format, family, architecture, blocks, size. Needs no data."""
    with shell.command(debug, threads=threads):
        from resprune.report import tables
        from resprune.report.results import networks

        chain = opened()(device="cpu", numbers=check)
        if as_json:
            found = networks.inspect(chain.summary, chain.preprocessing, chain.classes)
            shell.print_json(found | reporting.made(seed=0))
        else:
            shell.show(tables.inspect(chain.summary, chain.preprocessing))


@app.command(short_help="What every exit and every block does, measured on images")
@opens_a_checkpoint
def analyze(
    opened: Opened,
    data: options.Data = None,
    split: options.Split = None,
    tol: Annotated[float, typer.Option(min=0, metavar="T", help="Tolerance of the suggested depth.")] = 1e-3,
    drops: Annotated[bool, typer.Option(help="Also measure the network without each block in turn.")] = True,
    samples: options.Samples = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the blocks to a CSV file.", show_default=False)
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the blocks to a Parquet file.", show_default=False),
    ] = None,
    classwise: Annotated[
        bool, typer.Option("--classwise", help="Also the accuracy of every class at every exit.")
    ] = False,
    classwise_csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write those to a CSV file, a line a class.", show_default=False),
    ] = None,
    bounds: Annotated[
        bool, typer.Option("--bounds", help="Bounds 1 and 2 of the paper, with the SubResNet of --sub.")
    ] = False,
    sub: options.Sub = None,
    gamma: options.Gamma = None,
    branch_decay: options.BranchDecay = None,
    report: options.ReportFile = None,
    plots: options.Plots = None,
    force: options.ForceReport = False,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Measure every exit, residual norm and drop effect of a checkpoint in one pass over the images."""
    with shell.command(debug, threads=threads, outputs=(csv, classwise_csv, parquet, report, plots)):
        reporting.check(report, plots, force=force)
        reporting.check_files((csv, ".csv"), (classwise_csv, ".csv"), (parquet, ".parquet"), data=data)
        reporting.check_bounds(bounds=bounds, sub=sub, gamma=gamma, branch_decay=branch_decay)
        from resprune import bounding, pipeline
        from resprune.placing import write_bytes, write_text
        from resprune.report import classes, tables
        from resprune.report.results import networks, parts

        chain = opened()(device=device)
        part = None if sub is None else pipeline.load(sub, device=device)
        weights = {"gamma": gamma, "branch_decay": branch_decay}
        if part is not None:
            bounding.check(chain, part, **weights)
        reading = {"split": split, "samples": samples, "seed": seed, "batch_size": batch_size}
        classwise = classwise or classwise_csv is not None
        analysis = pipeline.analyze(
            chain, data, tol=tol, drops=drops, classwise=classwise, progress=shell.progress, **reading
        )
        found = networks.analyze(analysis) | reporting.made(seed)
        shown = [tables.analyze(analysis)]
        if classwise:
            shown.append(classes.table(analysis))
        if part is not None:
            terms = bounding.bound(chain, part, analysis, data, progress=shell.progress, **weights, **reading)
            found |= networks.bounds(terms, part.summary)
            shown.append(tables.bounds(terms, chain.summary, part.summary, analysis.data))
        if csv is not None:
            write_text(csv, tables.trajectory_csv(analysis))
        if classwise_csv is not None:
            write_text(classwise_csv, classes.csv(analysis))
        if parquet is not None:
            write_bytes(parquet, tables.trajectory_parquet(analysis))
        accuracy = analysis.trajectory.final.accuracy
        better = pipeline.remedies(chain, data, accuracy, progress=shell.progress, **reading)
        written = reporting.write([(found, reporting.name_of(chain.origin.path))], report, plots, force=force)
        if as_json:
            shell.print_json(found | parts.remedies(better))
        else:
            for table in shown:
                shell.show(table)
            reporting.tell([csv, classwise_csv, parquet, *written])
        shell.advise(tables.remedy(better))


app.command(short_help="Analyses and frontiers as one HTML page, or as plots")(report)
app.command(short_help="Remove blocks: those named, or those that a budget asks for")(prune)


@app.command(short_help="Accuracy and loss")
@opens_a_checkpoint
def evaluate(
    opened: Opened,
    data: options.Data = None,
    split: options.Split = None,
    samples: options.Samples = None,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Measure accuracy (top 1, top 5) and loss of a checkpoint, an output folder or an ONNX file."""
    with shell.command(debug, threads=threads):
        from resprune import comparing, pipeline
        from resprune.report import tables
        from resprune.report.results import networks, parts

        read = opened()
        where = comparing.common_device(device, "", read.checkpoint)
        network = read(opener=comparing.open_network, device=where)
        reading = {"split": split, "samples": samples, "seed": seed, "batch_size": batch_size}
        evaluation, summary = pipeline.evaluate(network, data, progress=shell.progress, **reading)
        better = pipeline.remedies(network, data, evaluation.accuracy, progress=shell.progress, **reading)
        own = comparing.subject(network)
        if as_json:
            found = networks.evaluate(own, summary, evaluation) | reporting.made(seed)
            shell.print_json(found | parts.remedies(better))
        else:
            shell.show(tables.evaluate(own, summary, evaluation))
        shell.advise(tables.remedy(better))


app.command(short_help="What two networks say of the same images")(compare)
app.command(short_help="Latency, throughput and peak memory, measured in turns")(bench)
app.command(short_help="Hold a network against limits: a gate for CI")(check)
app.command(short_help="Write for timm, torchvision, Hugging Face or ONNX Runtime")(export)
app.command(short_help="Train on with the stage cost, so that blocks can go")(finetune)


@app.command(short_help="What is installed, and on what machine")
def env(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Say what is installed and on what machine: for bug reports, and where something does not start."""
    with shell.command(debug):
        from resprune.machine import environment
        from resprune.report import environment as told

        found = environment()
        if as_json:
            shell.print_json(told.result(found))
        else:
            shell.show(told.table(found))


@app.command(short_help="The JSON Schema of what a command prints")
def schema(
    command: Annotated[
        str, typer.Argument(metavar="COMMAND", help="Such as check, prune or analyze.", show_default=False)
    ],
    debug: options.Debug = False,
) -> None:
    """Print the JSON Schema (draft 2020-12) of what a command prints with --json."""
    with shell.command(debug):
        from resprune.report import schemas

        shell.print_json(schemas.schema(command))


@app.command(short_help="What networks are read, and what loads a pruned one")
def families(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the table of docs/families.md, with every name.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the networks that are read, and the libraries that load a pruned one."""
    with shell.command(debug):
        from resprune.families import FAMILIES
        from resprune.report import families as told

        groups = [group for family in FAMILIES for group in family.variants()]
        if as_json:
            shell.print_json(told.result(groups))
        elif markdown:
            shell.print_text(told.markdown(groups))
        else:
            shell.show(told.table(groups))
