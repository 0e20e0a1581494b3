"""The whole way, step by step; newcomers start here.

chain = load("resnet20.th")                            # file -> Checkpoint -> ResidualChain
analysis = analyze(chain, "cifar10/")                  # -> exits -> Trajectory
plan = select(analysis.trajectory, tol=1e-3)           # -> PrunePlan
pruned = prune(chain, plan, "cifar10/")                # -> SubResNet, verified
save(pruned, "resnet20-pruned")                        # -> folder
evaluate(load("resnet20-pruned"), "cifar10/")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resprune import doubt, surgery, trajectory
from resprune.chain import ResidualChain
from resprune.choosing import Choice, choose_for
from resprune.controls import random_band
from resprune.data import CHOICE_FIRST, TEST_FIRST, VALIDATION_FIRST
from resprune.errors import UsageError
from resprune.exporting import folder as output
from resprune.exporting import verifying
from resprune.loading import load
from resprune.memory import pass_over
from resprune.pruning import Pruned, prune
from resprune.reading import Data, Progress, batches_for, silent
from resprune.records import Analysis, DataSummary, Evaluation, NetworkSummary, PrunePlan, Remedy, Saved
from resprune.report import card
from resprune.report.results import outputs, parts, prunings
from resprune.running import Network
from resprune.selection import check_tolerance, select, tail_rule
from resprune.wrapping import wrap

DEFAULT_TOLERANCE = 1e-3


def analyze(
    chain: ResidualChain,
    data: Data | None = None,
    *,
    tol: float = DEFAULT_TOLERANCE,
    drops: bool = True,
    classwise: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Analysis:
    """Measure all exits, residuals, drop effects, and what random removals do.

    Args:
        chain: The network.
        data: Labelled or unlabelled images; needed unless the chain is the demo.
        tol: Tolerance of the suggested depth.
        drops: Also measure the effect of dropping each block alone, and of dropping random ones.
        classwise: Also measure the accuracy of every class at every exit; needs labels.
        progress: Shown the images done.
        options: Of `resprune.data.open_data`: split, samples, seed, batch_size.
    """
    check_tolerance(tol)
    options.setdefault("order", VALIDATION_FIRST)
    batches = batches_for(chain, data, **options)
    names = batches.source.label_names
    measured = pass_over(
        batches,
        lambda images, on_batch: trajectory.measure(
            chain, images, drops=drops, classwise=classwise, class_names=names, on_batch=on_batch
        ),
        progress,
        "analyze",
    )
    suggested = tail_rule(measured.residual_norms_relative, tol)
    band = None
    if drops and chain.depth:
        count = max(1, chain.depth - suggested)
        band = pass_over(
            batches,
            lambda images, on_batch: random_band(chain, images, count, on_batch=on_batch),
            progress,
            "control",
        )
    return Analysis(chain.summary, batches.summary, measured, tol, suggested, band)


def choose(
    chain: ResidualChain, data: Data | None = None, *, tol: float, progress: Progress = silent, **options: Any
) -> tuple[PrunePlan, DataSummary]:
    """Return the tail rule's plan for a tolerance, and the images it was chosen on.

    The validation split is read where there is one, else the training split: the test images are for the
    figures, not for choices.
    """
    options.setdefault("order", CHOICE_FIRST)
    analysis = analyze(chain, data, tol=tol, drops=False, progress=progress, **options)
    return select(analysis.trajectory, tol=tol), analysis.data


def preview(chain: ResidualChain, plan: PrunePlan) -> NetworkSummary:
    """Return what a plan's result would be, without its weights."""
    return surgery.remove_blocks(chain.outline, plan).summary


def save(
    pruned: Pruned,
    folder: str | Path,
    *,
    force: bool = False,
    read_back: bool = True,
    made: Mapping[str, Any] | None = None,
) -> Saved:
    """Write the output folder, whole or not at all, and read it back in a new process.

    Args:
        pruned: From `prune`.
        folder: Must not exist, unless ``force`` is on and it is one of resprune's.
        force: Replace it.
        read_back: Off saves the seconds that a new process takes.
        made: By which command, as `results.outputs.made` returns it; for the report and the card.

    Raises:
        OutputError: where nothing can be written there.
        VerificationError: where what is read back is not bit by bit the same network; nothing is left then.
    """
    if not isinstance(pruned, Pruned):
        raise UsageError(f"expected what resprune.prune returned, got {type(pruned).__name__}")
    outcome = pruned.outcome
    with output.whole_or_nothing(Path(folder), force) as draft:
        output.write_network(pruned.chain, draft, outputs.provenance(outcome))
        found = verifying.read_folder(pruned.chain, draft, pruned.images) if read_back else None
        report = prunings.prune(outcome) | parts.read_back(found) | dict(made or {})
        report = outputs.portable(report)
        output.write_report(draft, report)
        text = card.model_card(outcome, Path(folder).name, outputs.command_of(report))
        (draft / output.CARD_FILE).write_text(text, encoding="utf-8")
        return Saved(tuple(sorted(entry.name for entry in draft.iterdir())), found)


def remedies(
    network: Network,
    data: Data | None,
    accuracy: float | None,
    *,
    progress: Progress = silent,
    **options: Any,
) -> tuple[Remedy, ...]:
    """Return assumptions that fit labelled images much better than those made; see `resprune.doubt`.

    Args:
        network: As it was loaded; an ONNX file has nothing to assume.
        data: The images that the accuracy was measured on.
        accuracy: Nothing is tried where it is that of a trained network, or None.
        progress: Shown the images done.
        options: Of `resprune.data.open_data`: split, seed, batch_size.
    """
    if accuracy is None or accuracy >= doubt.DOUBTFUL or not isinstance(network, ResidualChain):
        return ()
    options.setdefault("order", VALIDATION_FIRST)
    batches = batches_for(network, data, **(options | {"samples": doubt.IMAGES}))
    return doubt.remedies(network, batches, progress)


def evaluate(
    network: Network, data: Data | None = None, *, progress: Progress = silent, **options: Any
) -> tuple[Evaluation, DataSummary]:
    """Return accuracy and loss of a chain or an ONNX file, and the images they were measured on."""
    options.setdefault("order", TEST_FIRST)
    batches = batches_for(network, data, **options)
    evaluation = pass_over(
        batches,
        lambda images, on_batch: trajectory.evaluate(network, images, on_batch=on_batch),
        progress,
        "evaluate",
    )
    return evaluation, batches.summary


__all__ = [
    "Analysis",
    "Choice",
    "Pruned",
    "analyze",
    "choose",
    "choose_for",
    "evaluate",
    "load",
    "prune",
    "save",
    "select",
    "wrap",
]
