"""The command ``prune``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resprune.cli import cautions, exploring, healing, options, reporting, shell, wishes
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.cli.options import absent
from resprune.records import RECIPES, Budget, EpochRow

if TYPE_CHECKING:
    from resprune.chain import ResidualChain
    from resprune.choosing import Choice


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
        float | None, absent("Remove blocks until at most this fraction of the MACs is left.", "F")
    ] = None,
    target_params: Annotated[
        float | None, absent("Remove blocks until at most this fraction of the parameters is left.", "F")
    ] = None,
    max_drop: Annotated[
        float | None, absent("Lose at most so many points of accuracy, judged on held-out images.", "P")
    ] = None,
    speedup: Annotated[
        float | None, absent("Remove blocks until the network is so many times faster, measured.", "F")
    ] = None,
    latency_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images at once that --speedup is measured with.")
    ] = 1,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Blocks that may go for a budget: surgical (any), stagewise (stages' ends), tail (the end).",
        ),
    ] = "surgical",
    data: options.Data = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Split to choose, recover and heal on [default: validation, else train; train to heal].",
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
            help="Bring the outputs back without training: new batch-norm statistics, and compensation of"
            " removed blocks in the layers that stay; kept where they help [default: on with images].",
            show_default=False,
        ),
    ] = None,
    heal: Annotated[
        int | None, absent("Then train for E epochs to give what the original gives.", "E", min=1)
    ] = None,
    heal_steps: Annotated[int | None, absent("The same for N optimizer steps.", "N", min=1)] = None,
    heal_rate: Annotated[
        float | None, absent(f"Largest learning rate of the healing [{RECIPES['heal'].rate:g}].", "X")
    ] = None,
    heal_precision: Annotated[
        str | None, absent("Of the healing: auto (bf16 on CUDA), fp32 or bf16 [auto].", "NAME")
    ] = None,
    heal_rounds: Annotated[
        int, absent("Remove the blocks in N parts, and recover and heal after each.", "N", min=1)
    ] = 1,
    heal_rivals: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Before, try N plans with one block exchanged, healed for a tenth of the steps; 0: none.",
        ),
    ] = 3,
    control: Annotated[
        list[str] | None,
        absent("Compare with: random (as many blocks), scratch (the same shape, untrained).", "KIND"),
    ] = None,
    control_seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Networks of each control.")] = 3,
    frontier: Annotated[
        bool,
        typer.Option(
            "--frontier",
            help="Measure all depths, write none: accuracy against MACs and time, raw and recovered.",
        ),
    ] = False,
    csv: Annotated[Path | None, absent("Write the frontier's table.", "FILE")] = None,
    report: Annotated[Path | None, absent("Write an HTML page of the frontier.", "FILE")] = None,
    plots: Annotated[Path | None, absent("Write its plots as SVG and PNG.", "DIR")] = None,
    out: options.Out = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what resprune wrote before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: options.Json = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Remove blocks: those named, or those that a budget asks for; check the result, heal it, write it."""
    with shell.command(debug, threads=threads, outputs=(out, csv, report, plots)):
        from resprune import pipeline
        from resprune.report import pruning, tables, wording
        from resprune.report.results import parts, prunings
        from resprune.selection import check_wishes

        budget = Budget(macs=target_macs, parameters=target_params, speedup=speedup, max_drop=max_drop)
        named = {"tol": tol, "depth": depth, "remove": remove}
        others = {f"--{name}": value is not None for name, value in named.items()}
        others |= {"a budget": bool(budget), "--out": out, "--control": control, "--dry-run": dry_run}
        files = exploring.Files(csv, report, plots, force)
        exploring.check(files, wanted=frontier, others=others)
        wishes.refuse_idle(
            frontier=frontier,
            named=any(value is not None for value in named.values()),
            surgical=wishes.method(method) == "surgical",
            timed=speedup is not None,
            limited=max_drop is not None,
            heals=heal is not None or heal_steps is not None,
            controlled=bool(control),
        )
        asked = {"epochs": heal, "steps": heal_steps, "rate": heal_rate, "precision": heal_precision}
        recipe = healing.recipe(asked, heal_rounds, seed, device)
        if frontier:
            exploring.run(
                opened()(device=device),
                data,
                files=files,
                as_json=as_json,
                method=wishes.method(method),
                recover=recover is not False,
                heal=recipe,
                split=split,
                samples=samples,
                latency_batch=latency_batch,
                device=device,
                seed=seed,
                batch_size=batch_size,
            )
            return
        check_wishes(budget, **named)
        if not dry_run:
            wishes.check_out(out, force)
        chain = opened()(device=device)
        images = data is not None or chain.origin.path == "demo"
        chooses = tol is not None or budget.max_drop is not None or (depth is None and remove is None)
        wishes.check_reading(images, recover, recipe, split, chooses=chooses)
        reading: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
        heals, kinds = recipe is not None, control or ()
        wishes.check_controls(kinds, chain, data, heals=heals, images=images, split=test_split, **reading)
        choice = _chosen(
            chain,
            data,
            budget,
            tol=tol,
            depth=depth,
            remove=remove,
            recover=recover is not False,
            heal=recipe,
            heal_rounds=heal_rounds,
            heal_rivals=heal_rivals,
            method=wishes.method(method),
            latency_batch=latency_batch,
            split=split,
            samples=samples,
            device=device,
            **reading,
        )
        result = pipeline.preview(chain, choice.plan)
        if not as_json:
            shell.show(pruning.plan(choice.plan, chain.summary, result))
        cautions.of_choice(choice, max_drop)
        if dry_run or out is None:
            if as_json:
                shell.print_json(
                    prunings.planned(choice.plan, chain.summary, result, choice.data) | reporting.made(seed)
                )
            return
        pruned = pipeline.prune(
            chain,
            choice,
            data,
            recover=recover is not False,
            heal=recipe,
            heal_rounds=heal_rounds,
            controls=kinds,
            control_seeds=control_seeds,
            recover_split=split,
            recover_samples=samples,
            split=test_split,
            device=device,
            progress=shell.progress,
            on_epoch=_tell_epoch,
            on_control=lambda *which: shell.say(pruning.control(*which)),
            **reading,
        )
        cautions.of_outcome(pruned.outcome, judged=bool(budget), heals=recipe is not None)
        accuracy = pruned.outcome.before.accuracy
        better = pipeline.remedies(chain, data, accuracy, progress=shell.progress, **reading)
        made = reporting.made(seed)
        saved = pipeline.save(pruned, out, force=force, made=made)  # last: a stop before finds nothing
        if as_json:
            written = {"output": {"folder": str(out), "files": list(saved.files)}}
            written |= parts.read_back(saved.read_back) | made
            shell.print_json(prunings.prune(pruned.outcome) | written | parts.remedies(better))
        else:
            told = f"Written: {out} ({', '.join(saved.files)})"
            for part in ("", pruning.prune(pruned.outcome), wording.read_back(saved.read_back), told):
                shell.show(part)
        shell.advise(tables.remedy(better))


def _chosen(
    chain: ResidualChain,
    data: str | None,
    budget: Budget,
    *,
    tol: float | None,
    depth: int | None,
    remove: str | None,
    split: str | None,
    samples: int,
    seed: int,
    batch_size: int | None,
    **options: Any,
) -> Choice:
    """Return the plan, with the images that it was chosen on and the network that was made of it meanwhile."""
    from resprune import pipeline
    from resprune.report import pruning

    reading = {"split": split, "samples": samples, "seed": seed, "batch_size": batch_size}
    named = seen = None
    if tol is not None:
        named, seen = pipeline.choose(chain, data, tol=tol, progress=shell.progress, **reading)
    elif depth is not None or remove is not None:
        paths = [block.path for block in chain.blocks]
        named = pipeline.select(depth=depth, remove=wishes.names(remove), paths=paths)
    if named is not None and not budget:
        return pipeline.Choice(named, seen)
    chosen = pipeline.choose_for(
        chain,
        data,
        budget,
        plan=named,
        progress=shell.progress,
        on_epoch=_tell_epoch,
        tell=lambda candidate: shell.say(pruning.candidate(candidate.plan)),
        **reading,
        **options,
    )
    return replace(chosen, data=chosen.data or seen)


def _tell_epoch(row: EpochRow) -> None:
    from resprune.report import pruning

    shell.say(pruning.healed(row))
