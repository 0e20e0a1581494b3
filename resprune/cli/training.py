"""The command ``finetune``, whose options are the fields of a `Recipe`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resprune.cli import cautions, idle, options, reporting, shell
from resprune.cli.opening import Open, opens_a_checkpoint
from resprune.errors import UsageError
from resprune.records import RECIPES, Recipe

if TYPE_CHECKING:
    from resprune.finetuning import Finetuned, Teacher


def _option(text: str, *names: str, metavar: str = "X", **others: Any) -> Any:
    """Return an option that is absent unless given: the recipe decides."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, **others)


@opens_a_checkpoint
def finetune(
    opened: Callable[[], Open],
    data: options.Data = None,
    split: Annotated[str | None, _option("Split to train on [default: train].", metavar="NAME")] = None,
    out: Annotated[Path | None, _option("Folder for the network and the run's state.", metavar="DIR")] = None,
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help=f"Where the options below begin: {', '.join(RECIPES)}.")
    ] = "default",
    epochs: Annotated[int | None, _option("Passes over the images [10].", metavar="E")] = None,
    steps: Annotated[int | None, _option("Optimizer steps, in the place of --epochs.", metavar="N")] = None,
    gamma: Annotated[
        str | None, _option("Weight of every exit's loss [0.02]; FROM:TO goes there linearly.", metavar="G")
    ] = None,
    branch_decay: Annotated[
        float | None, _option("Weight decay on the residual branches [1e-4].", "--lambda", "--branch-decay")
    ] = None,
    weight_decay: Annotated[float | None, _option("Weight decay on all else [1e-4].")] = None,
    vanish: Annotated[
        float | None, _option("Strength that drives whole branches to exactly zero [0, off].")
    ] = None,
    heads: Annotated[
        str | None,
        _option("Of the exits: shared, or separate [as the checkpoint has them].", metavar="KIND"),
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(metavar="CKPT", help="Whose output to stay close to: original, none, or a checkpoint."),
    ] = "original",
    teacher_weight: Annotated[
        float | None, _option("Part of the final loss that the teacher has [0.9].", metavar="W")
    ] = None,
    temperature: Annotated[float | None, _option("Of the teacher's softened output [4].", metavar="T")] = None,
    feature_weight: Annotated[
        str | None,
        _option("Of the states' distance from the teacher's [0]; FROM:TO; with gamma 0.", metavar="W"),
    ] = None,
    rate: Annotated[float | None, _option("Largest learning rate [0.02].", "--rate", "--lr")] = None,
    optimizer: Annotated[str | None, _option("sgd (Nesterov) or adamw.", metavar="NAME")] = None,
    momentum: Annotated[float | None, _option("Of SGD [0.9].")] = None,
    schedule: Annotated[str | None, _option("cosine, steps or constant.", metavar="NAME")] = None,
    milestones: Annotated[
        str | None, _option("Epochs after which steps divides the rate by ten.", metavar="E,E")
    ] = None,
    warm_up: Annotated[float | None, _option("Fraction of the steps in which the rate rises [0.05].")] = None,
    batch_size: Annotated[
        int | None, _option("Images of a step, over all processes [128].", metavar="N")
    ] = None,
    accumulate: Annotated[int | None, _option("Parts that a batch is cut into [1].", metavar="N")] = None,
    clip: Annotated[float | None, _option("Largest norm of the gradient.")] = None,
    ema: Annotated[float | None, _option("Decay of an average of the weights, which is then kept.")] = None,
    label_smoothing: Annotated[float | None, _option("Probability spread over all classes [0].")] = None,
    mixup: Annotated[float | None, _option("Mixup's alpha [0, off].")] = None,
    cutmix: Annotated[float | None, _option("CutMix's alpha [0, off].")] = None,
    augment: Annotated[
        str | None, _option("auto, none, crop, crop-flip (small images) or timm.", metavar="NAME")
    ] = None,
    auto_augment: Annotated[
        str | None, _option("timm's policy, such as rand-m9-mstd0.5-inc1.", metavar="POLICY")
    ] = None,
    plain_epochs: Annotated[
        int | None, _option("How many of the last epochs augment nothing [0].", metavar="N")
    ] = None,
    hold_out: Annotated[
        float | None, _option("Fraction of the images that the best epoch is chosen on [0.1].", metavar="F")
    ] = None,
    samples: options.Samples = None,
    precision: Annotated[str | None, _option("auto (bf16 on CUDA), fp32 or bf16.", metavar="NAME")] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--no-channels-last",
            help="Train in the channels-last memory format [on].",
            show_default=False,
        ),
    ] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile [off].", show_default=False)
    ] = None,
    sync_norms: Annotated[
        bool | None,
        typer.Option(
            "--sync-norms/--no-sync-norms",
            help="Let batch norms see the images of all processes [on].",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that read images.")] = 0,
    track: Annotated[
        list[str] | None, _option("Log to tensorboard, wandb, ... besides.", metavar="NAME")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an output folder of resprune's.")] = False,
    as_json: options.Json = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Train a checkpoint on with the stage cost, so that blocks that the task does not need can go.

    Also from scratch: resprune finetune paper-homogeneous-54 --recipe paper --data DIR --out DIR
    """
    with shell.command(debug, threads=threads, goes_on=_kept(out)):
        if out is None:
            raise UsageError("no output folder given", hint="add --out DIR")
        given = {
            "epochs": epochs,
            "steps": steps,
            "batch_size": batch_size,
            "accumulate": accumulate,
            "optimizer": optimizer,
            "rate": rate,
            "momentum": momentum,
            "schedule": schedule,
            "milestones": _milestones(milestones),
            "warm_up": warm_up,
            "branch_decay": branch_decay,
            "weight_decay": weight_decay,
            "heads": heads,
            "teacher_weight": teacher_weight,
            "temperature": temperature,
            "label_smoothing": label_smoothing,
            "mixup": mixup,
            "cutmix": cutmix,
            "vanish": vanish,
            "clip": clip,
            "ema": ema,
            "precision": precision,
            "channels_last": channels_last,
            "compile": compile_,
            "sync_norms": sync_norms,
            "hold_out": hold_out,
            "augment": augment,
            "auto_augment": auto_augment,
            "plain_epochs": plain_epochs,
            "seed": seed,
        }
        weights = _weight("--gamma", gamma, "gamma", "gamma_end", "0.02, or 0:0.1")
        weights |= _weight("--feature-weight", feature_weight, "feature_weight", "feature_end", "100, or 100:0")
        whole = _recipe(recipe, given, weights)

        from resprune import pipeline, training
        from resprune.finetuning import finetune as run
        from resprune.fresh import FROM_SCRATCH
        from resprune.report import tables, wording
        from resprune.report.results import parts, runs

        chain = opened()(device="cpu", data=data, split=split, seed=seed)
        taught = teacher != "none" and (teacher != "original" or chain.origin.format != FROM_SCRATCH)
        _refuse_idle(whole, taught=taught)
        cautions.of_recipe(whole)
        master: Teacher = "original" if teacher == "original" else None
        if teacher not in ("original", "none"):
            master = pipeline.load(teacher, device="cpu")
        made = reporting.made(seed)
        try:
            done: Finetuned = run(
                chain,
                data,
                out=out,
                recipe=whole,
                teacher=master,
                resume=resume,
                force=force,
                device=device,
                workers=workers,
                trackers=track or (),
                progress=shell.progress,
                made=made,
                on_epoch=lambda outcome: shell.say(tables.epoch(outcome)),
                split=split,
                samples=samples,
            )
        finally:
            training.disband()
        if not shell.is_main_process():
            return
        files = sorted(entry.name for entry in out.iterdir())
        if as_json:
            written = parts.read_back(done.read_back) | {"output": {"folder": str(out), "files": files}}
            shell.print_json(runs.finetune(done.outcome) | written | made)
        else:
            shell.show(tables.finetune(done.outcome))
            shell.show(wording.read_back(done.read_back))
            shell.show(f"Written: {out} ({', '.join(files)})")


def _recipe(name: str, given: dict[str, Any], weights: dict[str, float | None]) -> Recipe:
    if name not in RECIPES:
        raise UsageError(f"no recipe {name!r}", hint=f"choose from {', '.join(RECIPES)}")
    return replace(
        RECIPES[name], **{key: value for key, value in given.items() if value is not None}, **weights
    )


def _refuse_idle(recipe: Recipe, *, taught: bool) -> None:
    """Refuse options that were typed and would do nothing."""
    alone = "is of a teacher, and there is none"
    distils = taught and recipe.teacher_weight > 0
    plain = recipe.steps is None and recipe.plain_epochs >= recipe.epochs
    unaugmented = (plain, f"is not done in the last epochs, and --plain-epochs {recipe.plain_epochs} are all")
    smooths = recipe.stages or recipe.teacher_weight < 1 or not taught
    idle.refuse(
        {
            "epochs": (recipe.steps is not None, "says how long to train, and so do the steps"),
            "milestones": (recipe.schedule != "steps", f"is of --schedule steps, and it is {recipe.schedule}"),
            "momentum": (recipe.optimizer != "sgd", f"is of sgd, and the optimizer is {recipe.optimizer}"),
            "heads": (not recipe.stages, "is of the stage cost, and gamma is 0"),
            "augment": unaugmented,
            "auto_augment": unaugmented,
            "mixup": unaugmented,
            "cutmix": unaugmented,
            "teacher": (
                taught and not (recipe.teacher_weight or recipe.compares_states),
                "is of distillation, which has no weight here (--teacher-weight)",
            ),
            "teacher_weight": (not taught, alone),
            "feature_weight": (not taught, alone),
            "temperature": (not distils, alone if not taught else "is of a teacher, whose weight is 0"),
            "label_smoothing": (not smooths, "is of labels, and the teacher has the whole weight"),
        }
    )


def _weight(option: str, text: str | None, start: str, end: str, example: str) -> dict[str, float | None]:
    """Return the two fields of a recipe that a weight, or a pair FROM:TO, gives; a weight alone stays so."""
    if text is None:
        return {}
    first, colon, last = text.partition(":")
    try:
        return {start: float(first), end: float(last) if colon else None}
    except ValueError as error:
        raise UsageError(
            f"{option} {text} is no number and no pair of numbers", hint=f"for example {example}"
        ) from error


def _milestones(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--milestones {text} is no list of epochs", hint="for example 82,123") from error


def _kept(out: Path | None) -> str:
    return "nothing was written" if out is None else f"repeat the command with --resume to go on in {out}"
