"""The whole way, step by step; newcomers start here.

chain = load("resnet20.th")                            # file -> Checkpoint -> ResidualChain
analysis = analyze(chain, "cifar10/")                  # -> exits -> Trajectory
plan = select(analysis.trajectory, tol=1e-3)           # -> PrunePlan
pruned = prune(chain, plan, "cifar10/")                # -> SubResNet, verified
save(pruned, "resnet20-pruned")                        # -> folder
evaluate(load("resnet20-pruned"), "cifar10/")
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resprune import checkpoint, doubt, healing, surgery, trajectory
from resprune.chain import ResidualChain, seeded_images
from resprune.checks import check_network
from resprune.data import CHOICE_FIRST, TEST_FIRST, VALIDATION_FIRST, Batches, open_data
from resprune.errors import UsageError
from resprune.export import folder as output
from resprune.families import FAMILIES
from resprune.loading import load
from resprune.records import (
    Analysis,
    DataSummary,
    Evaluation,
    NetworkSummary,
    PruneOutcome,
    PrunePlan,
    Remedy,
    Removal,
)
from resprune.report import card, results
from resprune.selection import check_tolerance, select, surgical, tail_rule
from resprune.sensitivity import order_removals, savings
from resprune.verify import verify
from resprune.wrapping import wrap

DEFAULT_TOLERANCE = 1e-3
CALIBRATION = 256
"""How many images a surgical plan is chosen on."""
SEEDED_IMAGES = 16
"""How many seeded inputs verify a plan where there is no data."""
CHOICE_IMAGES = 5000
"""On how many images at most a plan is chosen, and a pruned network recovered."""

Progress = Callable[[str, int], AbstractContextManager[trajectory.OnBatch]]
"""Opened with a description and the number of images; its value is told of every batch done."""
Data = str | Path | Batches
"""A data spec, or batches that were opened before."""


@dataclass(frozen=True)
class Pruned:
    """What `prune` made: the new chain, and the record of what was done."""

    chain: ResidualChain
    outcome: PruneOutcome


def silent(description: str, images: int) -> AbstractContextManager[trajectory.OnBatch]:
    """Show no progress."""
    return nullcontext(lambda done: None)


def batches_for(chain: ResidualChain, data: Data | None, **options: Any) -> Batches:
    """Open a data spec with the chain's own preprocessing; see `resprune.data.open_data` for the options."""
    if isinstance(data, Batches):
        return data
    if data is None:
        if chain.origin.path != checkpoint.DEMO:
            raise UsageError("no data given", hint="name images with --data")
        data = checkpoint.DEMO
    return open_data(data, chain.preprocessing, chain.classes, **options)


def analyze(
    chain: ResidualChain,
    data: Data | None = None,
    *,
    tol: float = DEFAULT_TOLERANCE,
    drops: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> Analysis:
    """Measure all exits, residuals and drop effects.

    Args:
        chain: The network.
        data: Labelled or unlabelled images; needed unless the chain is the demo.
        tol: Tolerance of the suggested depth.
        drops: Also measure the effect of dropping each block alone.
        progress: Shown the images done.
        options: Of `resprune.data.open_data`: split, samples, seed, batch_size.
    """
    check_tolerance(tol)
    options.setdefault("order", VALIDATION_FIRST)
    batches = batches_for(chain, data, **options)
    with progress("analyze", batches.summary.samples) as on_batch:
        measured = trajectory.measure(chain, batches, drops=drops, on_batch=on_batch)
    suggested = tail_rule(measured.residual_norms_relative, tol)
    return Analysis(chain.summary, batches.summary, measured, tol, suggested)


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


def choose_for(
    chain: ResidualChain,
    data: Data | None = None,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    **options: Any,
) -> tuple[PrunePlan, DataSummary]:
    """Return a plan that leaves at most a fraction of the network, and the images it was chosen on.

    Blocks go from anywhere, in the order in which the output changes least for what their removal saves.

    Args:
        chain: The network.
        data: Images, labelled or not; `CALIBRATION` of them at most are read.
        macs: Fraction of the multiply-accumulates that may be left, above 0 and below 1.
        parameters: The same of the parameters; one of the two is given.
        options: Of `resprune.data.open_data`: split, samples, seed, batch_size.

    Raises:
        UsageError: where there is not exactly one target, it is out of range, or it cannot be reached.
    """
    target = parameters if macs is None else macs
    if target is None or (macs is not None and parameters is not None):
        raise UsageError("give a target for multiply-accumulates or for parameters, one of the two")
    if not 0 < target < 1:
        raise UsageError(f"a target is a fraction above 0 and below 1, got {target:g}", hint="for example 0.6")
    if macs is None:
        sizes = tuple(sum(p.numel() for p in block.branch.parameters()) for block in chain.blocks)
        unit, total, saved = "parameters", chain.summary.parameters, sizes
    else:
        unit, total, saved = "MACs", chain.summary.macs, savings(chain)
    least = (total - sum(saved)) / total
    if least > target:
        raise UsageError(
            f"{target:g} of the {unit} cannot be reached: stem, projections and head are {least:.3g} of them",
            where=chain.origin.path,
        )
    options.setdefault("order", CHOICE_FIRST)
    options["samples"] = min(options.get("samples") or CALIBRATION, CALIBRATION)
    batches = batches_for(chain, data, **options)

    def reached(removals: tuple[Removal, ...]) -> bool:
        return total - sum(saved[removal.index] for removal in removals) <= target * total

    removals = order_removals(chain, [images for images, _ in batches], until=reached, price=saved)
    rule = f"surgical, at most {target:g} of the {unit}"
    return surgical(removals, chain.depth, rule), batches.summary


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
    recover_split: str | None = None,
    recover_samples: int = CHOICE_IMAGES,
    progress: Progress = silent,
    **options: Any,
) -> Pruned:
    """Carry a plan out and verify it, on the data or else on seeded inputs; the chain is left as it is.

    Where there is data, the result is recovered after that: see `resprune.healing.recover`.

    Args:
        chain: The network.
        plan: From `select`.
        data: Images for the verification and the figures before and after.
        choice: The images that the plan was chosen on, for the report.
        recover: Re-estimate batch-norm statistics, and keep them where they help.
        recover_split: Of the images for that; by default validation, else train. Batches that were opened
            before are used for both.
        recover_samples: Use so many of them at most, drawn by the seed.
        progress: Shown the images done.
        options: Of `resprune.data.open_data`: split, samples, seed, batch_size.

    Raises:
        VerificationError: where the result is not what the plan says.
    """
    pruned, recovered = surgery.remove_blocks(chain, plan), None
    check_network(pruned)
    if data is None and chain.origin.path != checkpoint.DEMO:
        images = seeded_images(chain.preprocessing, SEEDED_IMAGES, options.get("seed", 0))
        seeded, summary = [(batch, None) for batch in images.split(4)], None
        with progress("verify", SEEDED_IMAGES) as on_batch:
            before, raw, verified = verify(chain, pruned, plan, seeded, on_batch=on_batch)
        after = raw
    else:
        own = {name: options[name] for name in ("seed", "batch_size") if name in options}
        calibration = None
        if recover and plan.removed:
            wish = {"split": recover_split, "samples": recover_samples, "order": CHOICE_FIRST}
            calibration = batches_for(chain, data, **own, **wish)
        options.setdefault("order", TEST_FIRST)
        batches = batches_for(chain, data, **options)
        summary = batches.summary
        with progress("verify", summary.samples) as on_batch:
            before, raw, verified = verify(chain, pruned, plan, batches, on_batch=on_batch)
        after = raw
        if calibration is not None:
            seed = own.get("seed", 0)
            pruned, recovered = healing.recover(chain, pruned, plan, calibration, seed=seed, progress=progress)
        if recovered is not None and recovered.kept and batches.labelled:
            with progress("evaluate", summary.samples) as on_batch:
                after = trajectory.evaluate(pruned, batches, on_batch=on_batch)
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
    )
    return Pruned(pruned, outcome)


def save(pruned: Pruned, folder: str | Path, *, force: bool = False) -> list[str]:
    """Write the output folder, whole or not at all; returns the names of its files.

    Args:
        pruned: From `prune`.
        folder: Must not exist, unless ``force`` is on and it is one of resprune's.
        force: Replace it.
    """
    outcome = pruned.outcome
    with output.whole_or_nothing(Path(folder), force) as draft:
        output.write_network(pruned.chain, draft, results.provenance(outcome))
        output.write_json(draft / output.REPORT_FILE, results.portable(results.prune(outcome)))
        (draft / output.CARD_FILE).write_text(card.model_card(outcome, Path(folder).name), encoding="utf-8")
        return sorted(entry.name for entry in draft.iterdir())


def remedies(
    chain: ResidualChain, data: Data | None, accuracy: float | None, **options: Any
) -> tuple[Remedy, ...]:
    """Return assumptions that fit labelled images much better than those made; see `resprune.doubt`.

    Args:
        chain: As it was loaded.
        data: The images that the accuracy was measured on.
        accuracy: Nothing is tried where it is that of a trained network, or None.
        options: Of `resprune.data.open_data`: split, seed, batch_size.
    """
    if accuracy is None or accuracy >= doubt.DOUBTFUL:
        return ()
    options.setdefault("order", VALIDATION_FIRST)
    return doubt.remedies(chain, batches_for(chain, data, **(options | {"samples": doubt.IMAGES})))


def evaluate(
    chain: ResidualChain, data: Data | None = None, *, progress: Progress = silent, **options: Any
) -> tuple[Evaluation, DataSummary]:
    """Return accuracy and loss of the network itself, and the images they were measured on."""
    options.setdefault("order", TEST_FIRST)
    batches = batches_for(chain, data, **options)
    with progress("evaluate", batches.summary.samples) as on_batch:
        return trajectory.evaluate(chain, batches, on_batch=on_batch), batches.summary


__all__ = ["Analysis", "Pruned", "analyze", "evaluate", "load", "prune", "save", "select", "wrap"]
