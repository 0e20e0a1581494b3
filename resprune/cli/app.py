"""The commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from resprune.cli import options, shell
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.cli.training import finetune

Opened = Callable[[], Open]

app = typer.Typer(
    name="resprune",
    help="Prune trained ResNets block by block, see what every block does, and ship a plain model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would swallow "[default: ...]"
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app()


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


@app.command()
@opens_a_checkpoint
def inspect(
    opened: Opened,
    check: Annotated[
        bool, typer.Option("--check", help="Read the numbers too: finite, and every block is skip plus branch.")
    ] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Say what a checkpoint is: format, family, architecture, blocks, size. Needs no data."""
    with shell.command(debug):
        from resprune.report import results, tables

        chain = opened()(device="cpu", numbers=check)
        if as_json:
            shell.print_json(results.inspect(chain.summary, chain.preprocessing, chain.classes))
        else:
            shell.show(tables.inspect(chain.summary, chain.preprocessing))


@app.command()
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
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Measure every exit, residual norm and drop effect of a checkpoint in one pass over the images."""
    with shell.command(debug, threads=threads):
        from resprune import pipeline
        from resprune.export.folder import write_text
        from resprune.report import results, tables

        chain = opened()(device=device)
        analysis = pipeline.analyze(
            chain,
            data,
            tol=tol,
            drops=drops,
            progress=shell.progress,
            split=split,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
        )
        if csv is not None:
            write_text(csv, tables.trajectory_csv(analysis))
        accuracy = analysis.trajectory.final.accuracy
        better = pipeline.remedies(chain, data, accuracy, split=split, seed=seed, batch_size=batch_size)
        if as_json:
            shell.print_json(results.analyze(analysis) | results.remedies(better))
        else:
            shell.show(tables.analyze(analysis))
        shell.advise(tables.remedy(better))


@app.command()
@opens_a_checkpoint
def prune(
    opened: Opened,
    tol: options.Tolerance = None,
    depth: Annotated[
        int | None, typer.Option(min=0, metavar="M", help="Keep the first M blocks.", show_default=False)
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option(
            metavar="BLOCKS",
            help="Remove these blocks: indices from 0 and names, such as 3,5,layer3.2.",
            show_default=False,
        ),
    ] = None,
    data: options.Data = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Split for choosing the plan and for --recover [default: validation, else train].",
            show_default=False,
        ),
    ] = None,
    test_split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Split for the figures before and after [default: test, else validation].",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Choose and recover on at most N images, drawn by the seed."),
    ] = 5000,
    recover: Annotated[
        bool | None,
        typer.Option(
            "--recover/--no-recover",
            help="Re-estimate batch-norm statistics, kept where they help [default: on with images].",
            show_default=False,
        ),
    ] = None,
    out: options.Out = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an output folder of resprune's.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Remove blocks that the output does not need, or that are named, check the result, and write it."""
    with shell.command(debug, threads=threads):
        from resprune import pipeline
        from resprune.errors import UsageError
        from resprune.export.folder import refuse_existing
        from resprune.report import results, tables

        if sum(wish is not None for wish in (tol, depth, remove)) != 1:
            raise UsageError(
                "give a tolerance, a depth or blocks to remove, one of the three",
                hint="--tol 1e-3, or --depth 9, or --remove 3,5,layer3.2",
            )
        if out is None and not dry_run:
            raise UsageError("no output folder given", hint="add --out DIR, or --dry-run to see the plan only")
        if out is not None and not dry_run:
            refuse_existing(out, force)
        chain = opened()(device=device)
        images = data is not None or chain.origin.path == "demo"
        if tol is None and split is not None and not (images and recover is not False):
            raise UsageError(
                "--split names images to choose a plan or to recover on, and nothing here reads any",
                hint="use --test-split for the figures",
            )
        if recover and not images:
            raise UsageError("--recover needs images", hint="name some with --data; labels are not needed")
        reading = {"seed": seed, "batch_size": batch_size}
        if tol is not None:
            plan, choice = pipeline.choose(
                chain, data, tol=tol, split=split, samples=samples, progress=shell.progress, **reading
            )
        else:
            named = None if remove is None else remove.split(",") if remove.strip(" ,") else []
            paths = [block.path for block in chain.blocks]
            plan, choice = pipeline.select(depth=depth, remove=named, paths=paths), None
        result = pipeline.preview(chain, plan)
        if not as_json:
            shell.show(tables.plan(plan, chain.summary, result))
        if choice is not None and choice.split == "test":
            shell.say("Note: the plan was chosen on the test images; what they say of it is too good.")
        if dry_run or out is None:
            if as_json:
                shell.print_json(results.planned(plan, chain.summary, result, choice))
            return
        pruned = pipeline.prune(
            chain,
            plan,
            data,
            choice=choice,
            recover=recover is not False,
            recover_split=split,
            recover_samples=samples,
            split=test_split,
            progress=shell.progress,
            **reading,
        )
        if pruned.outcome.seen:
            shell.say("Note: statistics were re-estimated, without labels, on images that the figures are of.")
        files = pipeline.save(pruned, out, force=force)
        better = pipeline.remedies(chain, data, pruned.outcome.before.accuracy, **reading)
        if as_json:
            written = {"output": {"folder": str(out), "files": files}}
            shell.print_json(results.prune(pruned.outcome) | written | results.remedies(better))
        else:
            shell.show("")
            shell.show(tables.prune(pruned.outcome))
            shell.show(f"Written: {out} ({', '.join(files)})")
        shell.advise(tables.remedy(better))


@app.command()
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
    """Measure accuracy (top 1, top 5) and loss of a checkpoint or of an output folder."""
    with shell.command(debug, threads=threads):
        from resprune import pipeline
        from resprune.report import results, tables

        chain = opened()(device=device)
        evaluation, summary = pipeline.evaluate(
            chain,
            data,
            progress=shell.progress,
            split=split,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
        )
        better = pipeline.remedies(
            chain, data, evaluation.accuracy, split=split, seed=seed, batch_size=batch_size
        )
        if as_json:
            shell.print_json(results.evaluate(chain.summary, summary, evaluation) | results.remedies(better))
        else:
            shell.show(tables.evaluate(chain.summary, summary, evaluation))
        shell.advise(tables.remedy(better))


app.command()(finetune)


@app.command()
def families(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="As the table of docs/families.md, with every name.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """List the networks that are read, and the libraries that load a pruned one."""
    with shell.command(debug):
        from resprune.families import FAMILIES
        from resprune.report import tables

        groups = [group for family in FAMILIES for group in family.variants()]
        if markdown:
            shell.print_text(tables.families_markdown(groups))
        else:
            shell.show(tables.families(groups))
