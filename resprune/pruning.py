"""A plan is carried out: blocks removed, the result proved, brought back, measured, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from resprune import surgery
from resprune.arguments import check_count, check_type
from resprune.chain import ResidualChain, seeded_images
from resprune.checks import check_chain, check_network
from resprune.choosing import Choice
from resprune.controls import Measure, OnControl, check_controls, check_labels, compare_with
from resprune.data import TEST_FIRST, Batches
from resprune.errors import UsageError
from resprune.exporting import folder as output
from resprune.exporting import verifying
from resprune.families import FAMILIES
from resprune.memory import pass_over
from resprune.reading import Data, Progress, batches_for, silent, with_demo
from resprune.records import (
    Control,
    DataSummary,
    Evaluation,
    PruneOutcome,
    PrunePlan,
    Recipe,
    Verification,
)
from resprune.restoration import CHOICE_IMAGES, OnEpoch, Restoration, Restored, Step
from resprune.verify import verify

SEEDED_IMAGES = 16
"""How many seeded inputs verify a plan where there is no data."""


@dataclass(frozen=True)
class Pruned:
    """What `prune` made: the new chain, the record of what was done, and a few images for reading it back."""

    chain: ResidualChain
    outcome: PruneOutcome
    images: Tensor | None = None


def prune(
    chain: ResidualChain,
    plan: PrunePlan | Choice,
    data: Data | None = None,
    *,
    recover: bool = True,
    heal: Recipe | None = None,
    heal_rounds: int = 1,
    controls: Sequence[str] = (),
    control_seeds: int = 3,
    recover_split: str | None = None,
    recover_samples: int = CHOICE_IMAGES,
    device: str = "auto",
    progress: Progress = silent,
    on_epoch: OnEpoch = lambda row: None,
    on_control: OnControl = lambda kind, seed, removed: None,
    **options: Any,
) -> Pruned:
    """Carry a plan out and verify it, on the data or else on seeded inputs; the chain is left as it is.

    Where there is data, the result is brought back after that: see `resprune.recovery.recover`.

    Args:
        chain: The network.
        plan: From `select`; or what `choose_for` returned, whose network is taken as it is where it made one:
            what it did to bring that back, it does to controls, in the place of ``recover`` and ``heal``.
        data: Images for the verification and the figures before and after.
        recover: Try new batch-norm statistics and compensation, and keep them where they help.
        heal: Train by this recipe too, the original its teacher.
        heal_rounds: Remove the blocks in so many parts, and bring the network back after each.
        controls: ``random``, ``scratch``: networks to compare with; see `resprune.controls`.
        control_seeds: Number of networks of each kind.
        recover_split: Of the images for both; by default validation, else train, and train for healing.
            Batches that were opened before are used for all but healing.
        recover_samples: Use so many of them at most for recovery, drawn by the seed.
        device: For healing: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        progress: Shown the images done.
        on_epoch: Told of every epoch of a healing, those of controls included.
        on_control: Told of every control before it is made: its kind, its seed, the blocks it is without.
        options: Of `resprune.data.open_data`: split, samples, seed, batch_size.

    Raises:
        UsageError: where images are needed and there are none.
        VerificationError: where the result is not what the plan says.
        TrainingError: where the loss is not finite.
    """
    check_chain(chain)
    check_count("control_seeds", control_seeds)
    check_type("plan", plan, (PrunePlan, Choice), "make one with resprune.select or resprune.choose_for")
    if heal is not None:
        check_type("heal", heal, Recipe, 'for example resprune.RECIPES["heal"]')
    choice = plan if isinstance(plan, Choice) else Choice(plan)
    plan, restored = choice.plan, choice.restored
    heals = _check_choice(chain, restored, recover=recover, heal=heal)
    there = with_demo(data, chain) is not None
    check_controls(controls, chain, heals=heals, images=there)
    if heal is not None and not there:
        raise UsageError("a network is healed on images", hint="name some with --data")
    cut = surgery.remove_blocks(chain, plan)
    check_network(cut)
    if not there:
        seen = _on_seeded_inputs(chain, cut, plan, restored, options.get("seed", 0), progress)
    else:
        restoration = None if restored is None else restored.by
        if restored is None and plan.removed and (recover or heal is not None):
            own = {name: options[name] for name in ("seed", "batch_size") if name in options}
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
        options.setdefault("order", TEST_FIRST)
        batches = batches_for(chain, data, **options)
        check_labels(controls, restoration, batches)
        seen = _on_images(chain, cut, plan, batches, restored or restoration, progress)
        measure = Measure(batches, progress)
        beside = compare_with(controls, control_seeds, chain, plan, restoration, measure, on_control=on_control)
        seen = replace(seen, controls=beside)
    pruned = seen.done.network
    outcome = PruneOutcome(
        origin=chain.summary,
        result=pruned.summary,
        plan=plan,
        before=seen.before,
        raw=seen.raw,
        after=seen.after,
        recovered=tuple(tried for _, tried in seen.done.steps),
        verified=seen.verified,
        data=seen.data,
        choice=choice.data,
        preprocessing=chain.preprocessing,
        classes=chain.classes,
        loads_in_timm=output.loads_in_timm(pruned),
        needs_family=chain.family not in FAMILIES,
        controls=seen.controls,
        constructor=output.constructor_of(pruned),
    )
    return Pruned(pruned, outcome, seen.few)


@dataclass(frozen=True)
class _Seen:
    """What was found of a pruned network.

    Attributes:
        done: The network in the end, and what brought it there.
        before, raw, after: Figures of the original, right after the cut, and in the end.
        verified: The proof that the cut is what the plan says.
        data: The images of the figures; None where the inputs were seeded.
        few: Some of them, for reading the result back.
        controls: Networks to compare with.
    """

    done: Restored
    before: Evaluation
    raw: Evaluation
    after: Evaluation
    verified: Verification
    data: DataSummary | None = None
    few: Tensor | None = None
    controls: tuple[Control, ...] = ()


def _check_choice(
    chain: ResidualChain, restored: Restored | None, *, recover: bool, heal: Recipe | None
) -> bool:
    """Refuse to carry a choice out otherwise than it was judged; return whether there is a healing.

    Raises:
        UsageError: says what differs.
    """
    by = None if restored is None else restored.by
    if by is None:
        return heal is not None
    if by.chain is not chain:
        raise UsageError(
            "the choice was judged on another network", hint="give the one that choose_for was given"
        )
    healing = None if by.healer is None else by.healer.recipe
    if heal is not None and heal != healing:
        judged = "before any healing" if healing is None else "after a healing by another recipe"
        raise UsageError(
            f"the choice was judged {judged}", hint="give choose_for the recipe, or prune by choice.plan"
        )
    if not recover and by.images is not None:
        raise UsageError(
            "the choice was judged after a recovery",
            hint="give choose_for recover=False, or prune by choice.plan",
        )
    return healing is not None


def _on_seeded_inputs(
    chain: ResidualChain,
    cut: ResidualChain,
    plan: PrunePlan,
    restored: Restored | None,
    seed: int,
    progress: Progress,
) -> _Seen:
    """Verify a cut without data; there is nothing to bring it back with, or to measure what was before."""
    images = seeded_images(chain.preprocessing, SEEDED_IMAGES, seed)
    with progress("verify", SEEDED_IMAGES) as on_batch:
        seeded = [(batch, None) for batch in images.split(4)]
        before, raw, verified = verify(chain, cut, plan, seeded, on_batch=on_batch)
    return _Seen(restored or Restored(cut), before, raw, raw, verified)


def _on_images(
    chain: ResidualChain,
    cut: ResidualChain,
    plan: PrunePlan,
    batches: Batches,
    way_back: Restored | Restoration | None,
    progress: Progress,
) -> _Seen:
    """Verify a cut, bring it back unless that was done, and measure whatever was kept."""
    few = batches.first(verifying.IMAGES)
    before, raw, verified = pass_over(
        batches,
        lambda images, on_batch: verify(chain, cut, plan, images, on_batch=on_batch),
        progress,
        "verify",
    )
    done = way_back.restore(cut, plan) if isinstance(way_back, Restoration) else way_back or Restored(cut)
    measure = Measure(batches, progress)
    done = replace(done, steps=tuple(_measured(step, plan, measure) for step in done.steps))
    after = raw
    if done.network is not cut:
        figures = [tried.figures for _, tried in done.steps if tried.figures is not None]
        after = figures[-1] if figures else measure(done.network)
    return _Seen(done, before, raw, after, verified, batches.summary, few)


def _measured(step: Step, plan: PrunePlan, measure: Measure) -> Step:
    """Add the figures to what was kept, but for rounds before the last."""
    network, tried = step
    kept = tried.kept and tried.removed == len(plan.removed)
    return network, replace(tried, figures=measure(network) if kept else None)
