"""What a gate asks of a network, and what it found."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from resprune.errors import UsageError
from resprune.records.comparing import Outcomes, Subject
from resprune.records.measured import DataSummary, Evaluation

Verdict = Literal["passed", "failed", "not measured"]

_OF_IMAGES = ("max_drop", "min_accuracy", "max_loss_increase", "min_agreement", "max_residual_tail")
_OF_TWO = ("max_drop", "max_loss_increase", "min_agreement", "min_speedup")


@dataclass(frozen=True)
class Limits:
    """What a network must keep to; None is no condition.

    Attributes:
        max_drop: Points of accuracy that may be lost against the other network.
        min_accuracy: Top 1, fraction of one.
        max_loss_increase: Mean cross-entropy that may be added to the other network's; nats.
        min_agreement: Fraction of the images with the other network's top class.
        max_macs: Multiply-accumulates for one image; at most 1: fraction of the other network's.
        max_params: Parameters, likewise.
        max_file_size: Bytes of the files that hold the weights.
        min_speedup: How many times as fast as the other network it must be; measured.
        max_residual_tail: Relative residual norm that no block from `tail_from` on may exceed.
        tail_from: Index of a block.
    """

    max_drop: float | None = None
    min_accuracy: float | None = None
    max_loss_increase: float | None = None
    min_agreement: float | None = None
    max_macs: float | None = None
    max_params: float | None = None
    max_file_size: int | None = None
    min_speedup: float | None = None
    max_residual_tail: float | None = None
    tail_from: int | None = None

    def __post_init__(self) -> None:
        def refuse(name: str, range_: str, hint: str) -> UsageError:
            value = getattr(self, name)
            return UsageError(f"{flag(name)} must be {range_}, got {value:g}", hint=hint)

        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise refuse("max_drop", "points of accuracy from 0 to 100", "0.5 allows 92.6 % to become 92.1 %")
        for name in ("min_accuracy", "min_agreement"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise refuse(name, "a fraction of one", "0.9 asks for 90 %")
        for name in ("max_loss_increase", "max_residual_tail"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise refuse(name, "a number of at least 0", "0 allows none")
        for name in ("max_macs", "max_params", "max_file_size", "min_speedup"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise refuse(name, "above 0", "see resprune check --help")
        if (self.max_residual_tail is None) != (self.tail_from is None):
            raise UsageError(
                "a tail has a tolerance and a first block, and one of them is missing",
                hint="for example --max-residual-tail 1e-3 --tail-from 9",
            )
        if self.tail_from is not None and self.tail_from < 0:
            raise refuse("tail_from", "an index from 0", "--tail-from 9 looks at blocks 9, 10, ...")

    @property
    def named(self) -> tuple[str, ...]:
        """Names of the conditions, in the order in which they are told."""
        names = (field.name for field in fields(self) if field.name != "tail_from")
        return tuple(name for name in names if getattr(self, name) is not None)

    @property
    def of_images(self) -> tuple[str, ...]:
        """Those of them that need images."""
        return tuple(name for name in self.named if name in _OF_IMAGES)

    @property
    def of_two(self) -> tuple[str, ...]:
        """Those of them that need another network."""
        sizes = tuple(name for name in ("max_macs", "max_params") if (getattr(self, name) or math.inf) <= 1)
        return tuple(name for name in self.named if name in _OF_TWO + sizes)


def flag(name: str) -> str:
    """Return a condition's option on the command line."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Interval:
    """Where a figure lies that was measured on a sample, at some confidence."""

    low: float
    high: float


@dataclass(frozen=True)
class Condition:
    """One condition of a gate: figure, limit, verdict.

    Attributes:
        name: Such as ``max-drop``, its option without the dashes.
        unit: Of all figures: ``points``, ``fraction``, ``nats``, ``MACs``, ``parameters``, ``bytes``,
            ``times``, ``relative norm``, ``files``.
        measured: None where it could not be measured.
        limit: Most or least that is allowed.
        upper: Whether the limit is the most.
        interval: Of the measured figure; None for what does not vary.
        verdict: What the condition comes to.
        within_noise: Whether it passed with a figure beyond the limit, because the interval reaches the limit.
        detail: How it was measured, or why it could not be; in words, may be empty.
    """

    name: str
    unit: str
    measured: float | None
    limit: float
    upper: bool
    interval: Interval | None
    verdict: Verdict
    within_noise: bool
    detail: str = ""


@dataclass(frozen=True)
class CheckOutcome:
    """What a gate found.

    Attributes:
        candidate: The network in question.
        against: What it is compared with, if anything.
        data: The images, where any were read.
        confidence: Of the intervals.
        strict: Whether figures decide by themselves, whatever their intervals.
        conditions: At least one.
        figures: Accuracy and loss of the candidate, where images were classified.
        figures_against: Likewise, of the other.
        outcomes: Who is right on how many images; None without labels or without another network.
    """

    candidate: Subject
    against: Subject | None
    data: DataSummary | None
    confidence: float
    strict: bool
    conditions: tuple[Condition, ...]
    figures: Evaluation | None = None
    figures_against: Evaluation | None = None
    outcomes: Outcomes | None = None

    @property
    def verdict(self) -> Verdict:
        """``failed`` if any condition failed, else ``not measured`` if any could not be, else ``passed``."""
        found = {condition.verdict for condition in self.conditions}
        return "failed" if "failed" in found else "not measured" if "not measured" in found else "passed"

    @property
    def exit_status(self) -> int:
        """0 all hold, 1 one failed, 3 none failed and one could not be measured."""
        return {"passed": 0, "failed": 1, "not measured": 3}[self.verdict]
