"""Fine-tune a chain with the stage cost, from the data spec to the folder.

tuned = finetune(load("resnet32.th"), "cifar10/", out="tuned", recipe=Recipe(epochs=2, gamma=0.1))
analyze(load("tuned"), "cifar10/")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from resprune import checkpoint, training
from resprune.arguments import check_count, check_type
from resprune.chain import ResidualChain
from resprune.checks import check_chain
from resprune.counterparts import check_teacher
from resprune.data import open_training
from resprune.errors import TrainingError, UsageError
from resprune.exporting.folder import TRACKS_FOLDER
from resprune.exporting.run import RunFolder
from resprune.fresh import FROM_SCRATCH
from resprune.journal import Journal, identity
from resprune.pipeline import Progress, silent
from resprune.records import RECIPES, FinetuneOutcome, PrunePlan, ReadBack, Recipe

OnEpoch = Callable[[FinetuneOutcome], None]
"""Told of a run after every epoch; the last of `FinetuneOutcome.rows` is the epoch's."""
Teacher = ResidualChain | Literal["original"] | None


@dataclass(frozen=True)
class Finetuned:
    """What `finetune` made: the best epoch's network, the record of the run, and of reading the folder back."""

    chain: ResidualChain
    outcome: FinetuneOutcome
    read_back: ReadBack | None = None


def finetune(
    chain: ResidualChain,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: Recipe = RECIPES["default"],
    teacher: Teacher = "original",
    cut: PrunePlan | None = None,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    workers: int = 0,
    trackers: Sequence[str] = (),
    read_back: bool = True,
    made: dict[str, Any] | None = None,
    progress: Progress = silent,
    on_epoch: OnEpoch = lambda outcome: None,
    split: str | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
) -> Finetuned:
    """Train a copy of a chain with the stage cost, on one device or on all that a launcher gives.

    Args:
        chain: Where it starts; left as it is.
        data: Training images, labelled unless the teacher alone says what is right; a part of them is held
            out for choosing the epoch.
        out: Folder for the best network, the figures of every epoch and the state to go on from.
        recipe: All choices.
        teacher: Whose output the final output is to stay close to: the chain as it is, another, or none. A
            network from scratch has nothing to teach.
        cut: What was removed of the teacher, where that is how the chain was made; ``feature_weight`` is then
            that of the states behind every block that stayed.
        resume: Go on with the run in ``out``; where there is nothing yet, begin it.
        force: Replace ``out``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; several GPUs are given by ``accelerate launch`` or
            ``torchrun``.
        workers: Processes that read images.
        trackers: Programs that log the figures besides, by Accelerate's names: ``tensorboard``, ...
        read_back: Read the network in ``out`` in a new process and compare it, at the end, and after epochs
            that take `LONG_EPOCH` or longer.
        made: By which command, as `results.outputs.made` returns it; for the report and the card.
        progress: Shown the images done.
        on_epoch: Told of every epoch, epoch 0 (before any training) included.
        split: By default ``train``.
        samples: Use so many images only, those held out among them.
        batch_size: Of the images held out; that of the training is the recipe's.

    Raises:
        DataError, UsageError, OutputError: before any training, where it cannot be done.
        TrainingError: where the loss is not finite; what was written before stays.
        VerificationError: where what is read back is not bit by bit the same; then no network is left.
    """
    check_chain(chain)
    check_count("workers", workers, 0)
    check_type("recipe", recipe, Recipe, 'for example resprune.RECIPES["default"]')
    if data is None and chain.origin.path != checkpoint.DEMO:
        raise UsageError("no data given", hint="name images with --data")
    if out is None and (resume or trackers):
        raise UsageError("a run that is resumed or tracked needs a folder", hint="name it with --out")
    if teacher == "original":
        teacher = None if chain.origin.format == FROM_SCRATCH else chain
        if teacher is not None and recipe.teacher_weight == 1 and not (recipe.stages or recipe.vanish):
            raise UsageError(
                "the network would learn from itself alone, which it knows already",
                hint="name the one that it was pruned from as its --teacher, or give labels a share with a"
                " --teacher-weight below 1",
            )
    if teacher is None and recipe.compares_states:
        raise UsageError(
            "the recipe learns from the states of a teacher, and there is none",
            hint="name a teacher, or set the feature weight to 0",
        )
    if not (recipe.teacher_weight or recipe.compares_states):
        teacher = None
    if teacher is not None:
        check_chain(teacher)
        check_teacher(chain, teacher, recipe, cut)
    tracks = None if out is None else Path(out) / TRACKS_FOLDER
    engine = training.engine(device, trackers, tracks)
    images = open_training(
        checkpoint.DEMO if data is None else data,
        chain.preprocessing,
        chain.classes,
        hold_out=recipe.hold_out,
        augment=recipe.augment,
        auto_augment=recipe.auto_augment,
        seed=recipe.seed,
        needs_labels=recipe.needs_labels or teacher is None,
        split=split,
        samples=samples,
        batch_size=batch_size,
    )
    plan = training.lay_out(chain, recipe, len(images.images), engine.num_processes)
    recipe = replace(recipe, batch_size=plan.batch_size)  # that of fewer images may be smaller
    run = None if out is None else RunFolder(Path(out), identity(chain, teacher, recipe, images, cut))
    journal = Journal(chain, teacher, recipe, images, plan.epochs, run, engine, on_epoch, read_back, made or {})
    with journal.begun(resume=resume, force=force) as state:
        try:
            with progress("fine-tune", plan.steps * plan.batch_size) as on_batch:
                trained = training.train(
                    chain,
                    images,
                    recipe,
                    teacher=teacher,
                    cut=cut,
                    state=state,
                    on=engine,
                    workers=workers,
                    listener=journal.listener(on_batch),
                )
        except TrainingError as error:
            kept = "; the folder holds the last state before it, and a run with another rate is another run"
            kept = "" if run is None else f"{kept}: add --force, or name another --out"
            raise TrainingError(error.what, where=out, hint=f"{error.hint}{kept}") from error
        outcome = journal.outcome(trained.rows, trained.chain)
        return Finetuned(trained.chain, outcome, journal.close(trained.chain, outcome))


def heal(
    pruned: ResidualChain,
    original: ResidualChain,
    data: str | Path | None = None,
    *,
    plan: PrunePlan | None = None,
    recipe: Recipe = RECIPES["heal"],
    **options: Any,
) -> Finetuned:
    """Train a copy of a pruned network to do what the original does; labels are not needed.

    `resprune.pipeline.prune` heals too, and keeps the result where it helps; this is for networks that are
    pruned already.

    Args:
        pruned: Left as it is.
        original: The teacher of its outputs, and of its states.
        data: See `finetune`.
        plan: What was removed of the original. The states behind all blocks that stayed are then compared,
            which heals better; without it those at the ends of the stages.
        recipe: All choices.
        options: Of `finetune`: out, resume, device, progress, split, samples, ...

    Raises:
        UsageError: where the two networks have other classes, preprocessing or stages.
        Others: see `finetune`.
    """
    return finetune(pruned, data, recipe=recipe, teacher=original, cut=plan, **options)
