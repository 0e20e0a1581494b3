"""The command ``prune``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from resprune.cli import options, shell
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.errors import UsageError


@opens_a_checkpoint
def prune(
    opened: Callable[[], Open],
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
    target_macs: Annotated[
        float | None,
        typer.Option(
            metavar="F",
            help="Remove blocks from anywhere until at most this fraction of the MACs is left.",
            show_default=False,
        ),
    ] = None,
    target_params: Annotated[
        float | None,
        typer.Option(metavar="F", help="The same of the parameters.", show_default=False),
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
        from resprune.export.folder import refuse_existing
        from resprune.report import pruning, results, tables
        from resprune.selection import check_wishes

        check_wishes(tol=tol, depth=depth, remove=remove, target_macs=target_macs, target_params=target_params)
        targeted = target_macs is not None or target_params is not None
        if out is None and not dry_run:
            raise UsageError("no output folder given", hint="add --out DIR, or --dry-run to see the plan only")
        if out is not None and not dry_run:
            refuse_existing(out, force)
        chain = opened()(device=device)
        images = data is not None or chain.origin.path == "demo"
        _check_reading(images, recover, split, chooses=tol is not None or targeted)
        reading = {"seed": seed, "batch_size": batch_size}
        if tol is not None:
            plan, choice = pipeline.choose(
                chain, data, tol=tol, split=split, samples=samples, progress=shell.progress, **reading
            )
        elif targeted:
            plan, choice = pipeline.choose_for(
                chain,
                data,
                macs=target_macs,
                parameters=target_params,
                split=split,
                samples=samples,
                **reading,
            )
        else:
            named = None if remove is None else remove.split(",") if remove.strip(" ,") else []
            paths = [block.path for block in chain.blocks]
            plan, choice = pipeline.select(depth=depth, remove=named, paths=paths), None
        result = pipeline.preview(chain, plan)
        if not as_json:
            shell.show(pruning.plan(plan, chain.summary, result))
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
            shell.show(pruning.prune(pruned.outcome))
            shell.show(f"Written: {out} ({', '.join(files)})")
        shell.advise(tables.remedy(better))


def _check_reading(images: bool, recover: bool | None, split: str | None, *, chooses: bool) -> None:
    """Refuse options that say how images are read where none are."""
    if split is not None and not chooses and not (images and recover is not False):
        raise UsageError(
            "--split names images to choose a plan or to recover on, and nothing here reads any",
            hint="use --test-split for the figures",
        )
    if recover and not images:
        raise UsageError("--recover needs images", hint="name some with --data; labels are not needed")
