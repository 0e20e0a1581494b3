"""Fine-tune a chain with the stage cost, from the data spec to the folder.

tuned = finetune(load("resnet32.th"), "cifar10/", out="tuned", recipe=Recipe(epochs=2, gamma=0.1))
analyze(load("tuned"), "cifar10/")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch import Tensor

from resprune import checkpoint, training
from resprune.chain import ResidualChain, digest
from resprune.counterparts import check_teacher
from resprune.data import TrainingData, open_training
from resprune.errors import TrainingError, UsageError, VerificationError
from resprune.exporting import folder as output
from resprune.exporting import verifying
from resprune.exporting.run import RunFolder
from resprune.families import FAMILIES
from resprune.fresh import FROM_SCRATCH
from resprune.matching import numbers_of
from resprune.pipeline import Progress, silent
from resprune.records import RECIPES, EpochRow, FinetuneOutcome, PrunePlan, ReadBack, Recipe
from resprune.report import card
from resprune.report.results import outputs, parts, runs

OnEpoch = Callable[[FinetuneOutcome], None]
"""Told of a run after every epoch; the last of `FinetuneOutcome.rows` is the epoch's."""
Teacher = ResidualChain | Literal["original"] | None
LONG_EPOCH = 60.0
"""Seconds of an epoch from which on its network is read back as it is written: that takes a few."""


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
    **options: Any,
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
        options: Of `resprune.data.open_training`: split, samples, batch_size.

    Raises:
        DataError, UsageError, OutputError: before any training, where it cannot be done.
        TrainingError: where the loss is not finite; what was written before stays.
        VerificationError: where what is read back is not bit by bit the same; then no network is left.
    """
    if data is None and chain.origin.path != checkpoint.DEMO:
        raise UsageError("no data given", hint="name images with --data")
    if out is None and (resume or trackers):
        raise UsageError("a run that is resumed or tracked needs a folder", hint="name it with --out")
    if teacher == "original":
        teacher = None if chain.origin.format == FROM_SCRATCH else chain
    if teacher is not None:
        check_teacher(chain, teacher, recipe, cut)
    tracks = None if out is None else Path(out) / output.TRACKS_FOLDER
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
        **options,
    )
    plan = training.lay_out(chain, recipe, len(images.images), engine.num_processes)
    run = None if out is None else RunFolder(Path(out), _identity(chain, teacher, recipe, images, cut))
    journal = _Journal(
        chain, teacher, recipe, images, plan.epochs, run, engine, on_epoch, read_back, made or {}
    )
    state = journal.begin(resume=resume, force=force)
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
        kept = "" if run is None else "; the folder holds the last state before it"
        raise TrainingError(error.what, where=out, hint=f"{error.hint}{kept}") from error
    finally:
        training.end_trackers(engine)
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


@dataclass(frozen=True)
class _Journal:
    """Writes down what a run does: folder, trackers, and whoever else wants to know."""

    chain: ResidualChain
    teacher: ResidualChain | None
    recipe: Recipe
    images: TrainingData
    epochs: int
    run: RunFolder | None
    engine: Accelerator
    on_epoch: OnEpoch
    reads_back: bool
    made: dict[str, Any]

    def begin(self, *, resume: bool, force: bool) -> dict[str, Any] | None:
        """Make folder and trackers ready; returns the state to go on from, or None to start."""
        state = None
        if self.run is not None:
            if self.engine.is_main_process:
                state = self.run.begin(resume=resume, force=force)
            self.engine.wait_for_everyone()
            if resume and not self.engine.is_main_process:
                state = self.run.state()
            self.engine.wait_for_everyone()  # trackers write into the folder that others look into
        training.start_trackers(self.engine, self.recipe.to_json())
        return state

    def listener(self, on_batch: Callable[[int], None]) -> training.Listener:
        """Return what the training loop talks to."""
        write = (lambda state: None) if self.run is None else self.run.write_state
        return training.Listener(on_batch, self._epoch, self._best, write)

    def outcome(self, rows: tuple[EpochRow, ...], result: ResidualChain) -> FinetuneOutcome:
        """Return the record of the run so far."""
        return FinetuneOutcome(
            origin=self.chain.summary,
            result=result.summary,
            recipe=self.recipe,
            heads=training.heads_of(result),
            teacher=None if self.teacher is None else self.teacher.origin.path,
            data=self.images.summary,
            held_out=None if self.images.held_out is None else self.images.held_out.summary,
            epochs=self.epochs,
            rows=rows,
            preprocessing=result.preprocessing,
            classes=result.classes,
            loads_in_timm=output.loads_in_timm(result),
            needs_family=result.family not in FAMILIES,
            constructor=output.constructor_of(result),
            teacher_sha256="" if self.teacher is None else self.teacher.origin.sha256,
        )

    def close(self, result: ResidualChain, outcome: FinetuneOutcome) -> ReadBack | None:
        """Read the network back and write the report; returns what that showed, None where it was not done."""
        if self.run is None or not self.engine.is_main_process:
            return None
        try:
            found = self._read(result, self.run.path) if self.reads_back else None
        except VerificationError as error:
            self.run.withdraw()
            hint = (
                f"no network is left there, but {output.STATE_FILE}, the state of the run; please report this"
            )
            raise VerificationError(error.what, where=self.run.path, hint=hint) from error
        report = runs.finetune(outcome) | parts.read_back(found) | self.made
        self.run.write_report(outputs.portable(report))
        return found

    def _read(self, result: ResidualChain, folder: Path) -> ReadBack | None:
        return verifying.read_folder(result, folder, self._few())

    def _few(self) -> Tensor | None:
        held_out = self.images.held_out
        return None if held_out is None else held_out.first(verifying.IMAGES)

    def _epoch(self, rows: tuple[EpochRow, ...]) -> None:
        outcome = self.outcome(rows, self.chain)
        if self.run is not None:
            lines = runs.epochs(outcome)
            self.run.write_metrics([outputs.portable(line | self.made) for line in lines])
        self.engine.log(runs.flat(runs.epochs(outcome)[-1]), step=rows[-1].steps)
        self.on_epoch(outcome)

    def _best(self, best: ResidualChain, rows: tuple[EpochRow, ...]) -> None:
        if self.run is not None:
            outcome = self.outcome(rows, best)
            report = outputs.portable(runs.finetune(outcome) | self.made)
            text = card.finetuned_card(outcome, self.run.path.absolute().name, outputs.command_of(report))
            worth = self.reads_back and rows[-1].seconds >= LONG_EPOCH
            check = partial(self._read, best) if worth else lambda draft: None
            self.run.write_network(best, outputs.provenance(outcome), text, report, check)


def _identity(
    chain: ResidualChain,
    teacher: ResidualChain | None,
    recipe: Recipe,
    images: TrainingData,
    cut: PrunePlan | None,
) -> dict[str, Any]:
    """Return what makes a run this run and no other; the data may have moved to another place."""
    data = images.summary
    return {
        "checkpoint": chain.origin.sha256 or chain.origin.path,
        # A pruned chain has the origin of its original, and a wrapped module can have learned since.
        "weights": digest(
            chain.network.state_dict() | {f"exits' {name}": own for name, own in chain.exit_state.items()}
        ),
        "architecture": chain.architecture.to_json(),
        "preprocessing": numbers_of(chain.preprocessing),
        "recipe": recipe.to_json(),
        "teacher": None if teacher is None else teacher.origin.sha256,
        "teacher_weights": None if teacher is None else digest(teacher.network.state_dict()),
        "data": {
            "name": Path(data.spec).name,
            "split": data.split,
            "samples": data.samples,
            "sha256": data.sha256,
        },
    } | ({} if cut is None else {"cut": list(cut.removed)})
