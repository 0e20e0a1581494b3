"""What is written of a training run while it goes on: its folder, trackers, and whoever else is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from resprune import training
from resprune.chain import ResidualChain, digest
from resprune.data import TrainingData
from resprune.errors import VerificationError
from resprune.exporting import folder as output
from resprune.exporting import verifying
from resprune.exporting.run import RunFolder
from resprune.families import FAMILIES
from resprune.matching import numbers_of
from resprune.records import EpochRow, FinetuneOutcome, PrunePlan, ReadBack, Recipe
from resprune.report import card
from resprune.report.results import outputs, parts, runs

LONG_EPOCH = 60.0
"""Seconds of an epoch from which on its network is read back as it is written: that takes a few."""


@dataclass(frozen=True)
class Journal:
    """Writes down what a run does: folder, trackers, and whoever else wants to know.

    Attributes:
        chain: Where the run starts.
        teacher: Of the run.
        recipe: Of the run.
        images: To learn from, and those held out.
        epochs: That the run has.
        run: Its folder.
        engine: That it runs on.
        on_epoch: Told of every epoch.
        reads_back: Whether what is written is read back in a new process.
        made: By which command; for the report and the card.
    """

    chain: ResidualChain
    teacher: ResidualChain | None
    recipe: Recipe
    images: TrainingData
    epochs: int
    run: RunFolder | None
    engine: Accelerator
    on_epoch: Callable[[FinetuneOutcome], None]
    reads_back: bool
    made: dict[str, Any]

    @contextmanager
    def begun(self, *, resume: bool, force: bool) -> Iterator[dict[str, Any] | None]:
        """Yield the state to go on from, or None to start; the folder is this run's alone meanwhile.

        Raises:
            UsageError, OutputError, CheckpointError: see `RunFolder.begun`.
        """
        with ExitStack() as open_until_then:
            state = None
            if self.run is not None:
                if self.engine.is_main_process:
                    state = open_until_then.enter_context(self.run.begun(resume=resume, force=force))
                self.engine.wait_for_everyone()
                if resume and not self.engine.is_main_process:
                    state = self.run.state()
                self.engine.wait_for_everyone()  # trackers write into the folder that others look into
            training.start_trackers(self.engine, self.recipe.to_json())
            open_until_then.callback(training.end_trackers, self.engine)
            yield state

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


def identity(
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
        "cut": None if cut is None else list(cut.removed),
    }
