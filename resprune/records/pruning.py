"""What was planned, and what was done."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resprune.records.checking import Interval
from resprune.records.measured import DataSummary, Evaluation
from resprune.records.networks import NetworkSummary, Preprocessing

if TYPE_CHECKING:
    from resprune.records.training import Recipe


@dataclass(frozen=True)
class PrunePlan:
    """Which blocks are reduced to their skip steps, and why.

    Attributes:
        rule: The wish in words, such as ``tail, tol 0.001``.
        removed, kept: Block indices, ascending; together 0..N-1.
        reasons: For every block 0..N-1 one short sentence that says why it goes or stays; empty where a plan
            was not made by `select`.
        divergence: Of the outputs from the original's on the images of the choice, in nats, with all of them
            removed and, where the network is to be recovered, the fits of the trial made; None where it was
            not measured.
        beside: What other methods would do for the same wish.
        speed: How much faster its network is; None where it was not measured.
        drop: What its network costs once it is brought back; None where that was not limited.
        order: The removed blocks in the order in which they were found; empty where there is none.
        rivals: Plans that were healed for a while, the one that the search found first; empty where none were.
    """

    rule: str
    removed: tuple[int, ...]
    kept: tuple[int, ...]
    reasons: tuple[str, ...] = ()
    divergence: float | None = None
    beside: tuple[Alternative, ...] = ()
    speed: Speed | None = None
    drop: Drop | None = None
    order: tuple[int, ...] = ()
    rivals: tuple[Rival, ...] = ()

    @classmethod
    def without(
        cls, removed: Collection[int], blocks: int, rule: str, order: tuple[int, ...] = ()
    ) -> PrunePlan:
        """Return the plan that removes these of so many blocks and keeps the others."""
        kept = tuple(k for k in range(blocks) if k not in removed)
        return cls(rule, tuple(sorted(removed)), kept, order=order)

    @property
    def depth(self) -> int:
        """M, the number of blocks that stay whole."""
        return len(self.kept)

    @property
    def is_tail(self) -> bool:
        """Whether the plan is a SubResNet-M: blocks 0..M-1 stay, all later ones go."""
        return self.kept == tuple(range(self.depth))


@dataclass(frozen=True)
class Speed:
    """How many times faster a pruned network is than the original, both measured in turns.

    Attributes:
        factor: Median over the rounds of the original's time over the pruned network's.
        quartiles: Of the same.
        batch_size, threads, device: Of the measurement.
    """

    factor: float
    quartiles: tuple[float, float]
    batch_size: int
    threads: int
    device: str


@dataclass(frozen=True)
class Drop:
    """What a pruned network costs, on images that neither chose it nor brought it back.

    Attributes:
        points: Of accuracy lost against the original, in per cent of the images; negative where it gained.
        samples: Number of those images.
        interval: Where the points lie, at 95 % confidence: of paired outcomes, as images that both get right
            or wrong tell nothing.
    """

    points: float
    samples: int
    interval: Interval


@dataclass(frozen=True)
class Alternative:
    """What another method would do.

    Attributes:
        method: Such as ``tail``.
        removed: Block indices, ascending.
        divergence: As in `PrunePlan`.
        macs: Multiply-accumulates for one image that are left.
    """

    method: str
    removed: tuple[int, ...]
    divergence: float
    macs: int


@dataclass(frozen=True)
class Rival:
    """What a short healing made of a plan.

    Attributes:
        removed: Block indices, ascending.
        steps: Of the healing.
        divergence: From the original after it, on the images that the healing holds out, in nats.
    """

    removed: tuple[int, ...]
    steps: int
    divergence: float


@dataclass(frozen=True)
class Removal:
    """One step of a surgical order.

    Attributes:
        index: Of the block that goes.
        divergence: Mean over images of KL(original || pruned) in nats, with it and all before it removed, and
            made up for where the search does that.
        price: What its removal is worth: multiply-accumulates for one image, or the unit of the given prices.
    """

    index: int
    divergence: float
    price: float


@dataclass(frozen=True)
class Verification:
    """Largest absolute difference of two networks' logits, what it was taken against, and the bound."""

    max_abs_difference: float
    against: str
    tolerance: float


@dataclass(frozen=True)
class Recovery:
    """What was tried to bring a pruned network's outputs back to the original's.

    Attributes:
        kind: ``batch-norm statistics``, ``compensation`` or ``healing``.
        split: Of the images; None where the data is not divided.
        images: Number of images that it was estimated, fitted or trained on.
        held_out: Number of further images that it was judged on.
        before, after: Mean divergence KL(original || pruned) of the outputs on those, in nats.
        kept: Whether it helped there; else the network was left as it was.
        removed: Number of blocks that were gone by then, which rounds before the last leave below the plan's.
        figures: On the images of the report, with it; None where it was not kept or nothing was measured.
        recipe: Of the training, for healing.
    """

    kind: str
    split: str | None
    images: int
    held_out: int
    before: float
    after: float
    kept: bool
    removed: int
    figures: Evaluation | None = None
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Control:
    """What became of another network that was made the same way, to compare a plan with.

    Attributes:
        kind: ``random``: as many blocks removed at random; ``scratch``: the same shape, trained from scratch.
        seed: Of it.
        removed: Blocks of the original that it lacks.
        macs: Multiply-accumulates for one image.
        raw: Figures right after the removal; None from scratch.
        after: Figures in the end.
    """

    kind: str
    seed: int
    removed: tuple[int, ...]
    macs: int
    raw: Evaluation | None
    after: Evaluation


@dataclass(frozen=True)
class PruneOutcome:
    """What `prune` did, and the proof that the result is what the plan says.

    Attributes:
        origin, result: The networks before and after.
        plan: Carried out.
        before, after: On the images of `data`; without data no figures but the number of inputs.
        raw: The same of the pruned network before recovery; what `after` is where none was kept.
        recovered: What was tried, in turn; empty without images, or where nothing was lost.
        controls: Other networks made the same way.
        verified: The check of the logits, before recovery.
        data: None where seeded inputs verified the result.
        choice: The images that the plan was chosen on; None where it needed none.
        preprocessing: Of both networks.
        classes: Number of their logits.
        loads_in_timm: Whether plain timm can load the result.
        needs_family: Whether reading the result back takes the adapter of a family that is not resprune's.
        constructor: Expression of torchvision's that builds the result; empty where it has none.
    """

    origin: NetworkSummary
    result: NetworkSummary
    plan: PrunePlan
    before: Evaluation
    raw: Evaluation
    after: Evaluation
    recovered: tuple[Recovery, ...]
    verified: Verification
    data: DataSummary | None
    choice: DataSummary | None
    preprocessing: Preprocessing
    classes: int
    loads_in_timm: bool
    needs_family: bool = False
    controls: tuple[Control, ...] = ()
    constructor: str = ""

    @property
    def kept(self) -> tuple[Recovery, ...]:
        """What was tried and kept."""
        return tuple(tried for tried in self.recovered if tried.kept)

    @property
    def chosen_on_seen(self) -> bool:
        """Whether the plan was chosen on images of the split that the figures are measured on."""
        return self.choice is not None and self.data is not None and self.choice.split == self.data.split

    @property
    def seen(self) -> bool:
        """Whether images that the figures are measured on, or other test images, changed the network."""
        return any(
            tried.split == "test" or (self.data is not None and tried.split == self.data.split)
            for tried in self.kept
        )
