"""The whole way, step by step; newcomers start here.

chain = load("resnet20.th")                            # file -> Checkpoint -> ResidualChain
analysis = analyze(chain, "cifar10/")                  # -> exits -> Trajectory
plan = select(analysis.trajectory, tol=1e-3)           # -> PrunePlan
pruned = prune(chain, plan, "cifar10/")                # -> SubResNet, verified
save(pruned, "resnet20-pruned")                        # -> folder
evaluate(load("resnet20-pruned"), "cifar10/")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from resprune import doubt, surgery, trajectory
from resprune.chain import ResidualChain, seeded_images
from resprune.checks import check_network
from resprune.choosing import Choice, choose_for
from resprune.controls import Measure, check_controls, check_labels, compare_with, random_band
from resprune.data import CHOICE_FIRST, TEST_FIRST, VALIDATION_FIRST
from resprune.errors import UsageError
from resprune.exporting import folder as output
from resprune.exporting import verifying
from resprune.families import FAMILIES
from resprune.loading import load
from resprune.memory import pass_over
from resprune.reading import Data, Progress, batches_for, silent, with_demo
from resprune.records import (
    Analysis,
    Control,
    DataSummary,
    Evaluation,
    NetworkSummary,
    PruneOutcome,
    PrunePlan,
    Recipe,
    Remedy,
    Saved,
)
from resprune.report import card
from resprune.report.results import outputs, parts, prunings
from resprune.restoration import CHOICE_IMAGES, OnEpoch, Restoration, Restored, Step
from resprune.running import Network
from resprune.selection import check_tolerance, select, tail_rule
from resprune.verify import verify
from resprune.wrapping import wrap

DEFAULT_TOLERANCE = 1e-3
SEEDED_IMAGES = 16
"""How many seeded inputs verify a plan where there is no data."""


@dataclass(frozen=True)
class Pruned:
    """What `prune` made: the new chain, the record of what was done, and a few images for reading it back."""

    chain: ResidualChain
    outcome: PruneOutcome
    images: Tensor | None = None


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


def prune(
    chain: ResidualChain,
    plan: PrunePlan,
    data: Data | None = None,
    *,
    choice: DataSummary | None = None,
    recover: bool = True,
    heal: Recipe | None = None,
    heal_rounds: int = 1,
    restored: Restored | None = None,
    controls: Sequence[str] = (),
    control_seeds: int = 3,
    recover_split: str | None = None,
    recover_samples: int = CHOICE_IMAGES,
    device: str = "auto",
    progress: Progress = silent,
    on_epoch: OnEpoch = lambda row: None,
    **options: Any,
) -> Pruned:
    """Carry a plan out and verify it, on the data or else on seeded inputs; the chain is left as it is.

    Where there is data, the result is brought back after that: see `resprune.recovery.recover`.

    Args:
        chain: The network.
        plan: From `select` or `choose_for`.
        data: Images for the verification and the figures before and after.
        choice: The images that the plan was chosen on, for the report.
        recover: Try new batch-norm statistics and compensation, and keep them where they help.
        heal: Train by this recipe too, the original its teacher.
        heal_rounds: Remove the blocks in so many parts, and bring the network back after each.
        restored: What brought the network back when it was chosen, in the place of both; controls are brought
            back the same way.
        controls: ``random``, ``scratch``: networks to compare with; see `resprune.controls`.
        control_seeds: Number of networks of each kind.
        recover_split: Of the images for both; by default validation, else train, and train for healing.
            Batches that were opened before are used for all but healing.
        recover_samples: Use so many of them at most for recovery, drawn by the seed.
        device: For healing: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: Shown the images done.
        on_epoch: Told of every epoch of a healing.
        options: Of `resprune.data.open_data`: split, samples, seed, batch_size.

    Raises:
        UsageError: where images are needed and there are none.
        VerificationError: where the result is not what the plan says.
        TrainingError: where the loss is not finite.
    """
    there = with_demo(data, chain) is not None
    check_controls(controls, heals=heal is not None, images=there)
    if heal is not None and not there:
        raise UsageError("a network is healed on images", hint="name some with --data")
    cut = surgery.remove_blocks(chain, plan)
    check_network(cut)
    done = Restored(cut)
    beside: tuple[Control, ...] = ()
    few = None
    if not there:
        images = seeded_images(chain.preprocessing, SEEDED_IMAGES, options.get("seed", 0))
        seeded, summary = [(batch, None) for batch in images.split(4)], None
        with progress("verify", SEEDED_IMAGES) as on_batch:
            before, raw, verified = verify(chain, cut, plan, seeded, on_batch=on_batch)
        after = raw
    else:
        own = {name: options[name] for name in ("seed", "batch_size") if name in options}
        restoration = None if restored is None else restored.by
        if restored is None and plan.removed and (recover or heal is not None):
            restoration = Restoration.open(
                chain,
                data,
                recover=recover,
                heal=heal,
                rounds=heal_rounds,
                split=recover_split,
                samples=recover_samples,
                device=device,
                progress=progress,
                on_epoch=on_epoch,
                **own,
            )
        check_labels(controls, restoration)
        options.setdefault("order", TEST_FIRST)
        batches = batches_for(chain, data, **options)
        summary, few = batches.summary, batches.first(verifying.IMAGES)
        before, raw, verified = pass_over(
            batches,
            lambda images, on_batch: verify(chain, cut, plan, images, on_batch=on_batch),
            progress,
            "verify",
        )
        after = raw
        if restored is not None:
            done = restored
        elif restoration is not None:
            done = restoration.restore(cut, plan)
        measure = Measure(batches, progress)
        done = replace(done, steps=tuple(_measured(step, plan, measure) for step in done.steps))
        if done.network is not cut:
            figures = [tried.figures for _, tried in done.steps if tried.figures is not None]
            after = figures[-1] if figures else measure(done.network)
        beside = compare_with(controls, control_seeds, chain, plan, restoration, measure)
    recovered, pruned = tuple(tried for _, tried in done.steps), done.network
    outcome = PruneOutcome(
        origin=chain.summary,
        result=pruned.summary,
        plan=plan,
        before=before,
        raw=raw,
        after=after,
        recovered=recovered,
        verified=verified,
        data=summary,
        choice=choice,
        preprocessing=chain.preprocessing,
        classes=chain.classes,
        loads_in_timm=output.loads_in_timm(pruned),
        needs_family=chain.family not in FAMILIES,
        controls=beside,
        constructor=output.constructor_of(pruned),
    )
    return Pruned(pruned, outcome, few)


def _measured(step: Step, plan: PrunePlan, measure: Measure) -> Step:
    """Add the figures to what was kept, but for rounds before the last."""
    network, tried = step
    kept = tried.kept and tried.removed == len(plan.removed)
    return network, replace(tried, figures=measure(network) if kept else None)


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


def remedies(network: Network, data: Data | None, accuracy: float | None, **options: Any) -> tuple[Remedy, ...]:
    """Return assumptions that fit labelled images much better than those made; see `resprune.doubt`.

    Args:
        network: As it was loaded; an ONNX file has nothing to assume.
        data: The images that the accuracy was measured on.
        accuracy: Nothing is tried where it is that of a trained network, or None.
        options: Of `resprune.data.open_data`: split, seed, batch_size.
    """
    if accuracy is None or accuracy >= doubt.DOUBTFUL or not isinstance(network, ResidualChain):
        return ()
    options.setdefault("order", VALIDATION_FIRST)
    return doubt.remedies(network, batches_for(network, data, **(options | {"samples": doubt.IMAGES})))


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
