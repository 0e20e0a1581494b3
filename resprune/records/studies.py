"""What a report shows: an analysis with what belongs to it, under a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resprune.records.frontier import Figures
from resprune.records.measured import Analysis, DataSummary


@dataclass(frozen=True)
class Bounds:
    """Bounds 1 and 2 of the paper with every term of its Tables 2 and 3; losses in nats.

    Attributes:
        sub_blocks: M, the depth of the SubResNet that was trained by itself.
        gamma: Weight of every exit's loss.
        branch_decay: Lambda, weight decay on the residual branches.
        sub_loss: ``L_bar``, the loss of the SubResNet's output.
        objective: ``J_N`` of the network.
        objective_bound: ``J_bar_N``.
        average_loss: ``L_avg``, mean over exits 0..N of the network.
        average_loss_bound: ``L_bar_avg``.
    """

    sub_blocks: int
    gamma: float
    branch_decay: float
    sub_loss: float
    objective: float
    objective_bound: float
    average_loss: float
    average_loss_bound: float

    @property
    def objective_gap(self) -> float:
        """``J_bar - J``; negative where bound 1 does not hold."""
        return self.objective_bound - self.objective

    @property
    def average_loss_gap(self) -> float:
        """``L_bar_avg - L_avg``; negative where bound 2 does not hold."""
        return self.average_loss_bound - self.average_loss


@dataclass(frozen=True)
class Study:
    """One analysis of a report.

    Attributes:
        name: As the legends have it.
        analysis: What was measured.
        version: Of the resprune that measured it.
        made: How: ``command``, ``seed`` and versions of libraries, as far as they are known.
        bounds: With a SubResNet; None where there was none.
        sub_path: That SubResNet's checkpoint.
    """

    name: str
    analysis: Analysis
    version: str
    made: Mapping[str, Any] = field(default_factory=dict)
    bounds: Bounds | None = None
    sub_path: str = ""

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of blocks of every stage that has any, in order."""
        numbers = [row.stage for row in self.analysis.trajectory.rows]
        return tuple(numbers.count(stage) for stage in sorted(set(numbers)))


@dataclass(frozen=True)
class FrontierPoint:
    """One pruned network of a frontier.

    Attributes:
        removed: Block indices, ascending; none for the original.
        blocks: That are kept.
        macs: Multiply-accumulates for one image.
        parameters: Of the network.
        latency_ms: Median and bounds of the middle half; None where it was not measured.
        raw: Right after the cut.
        recovered: After recovery.
    """

    removed: tuple[int, ...]
    blocks: int
    macs: int
    parameters: int
    latency_ms: tuple[float, float, float] | None
    raw: Figures
    recovered: Figures


@dataclass(frozen=True)
class FrontierStudy:
    """What pruned networks of one origin cost, and what they are worth, in a report.

    Attributes:
        name: As the legends have it.
        path, sha256: Of the origin's checkpoint.
        data: The images; None where none were read.
        points: The original first.
        version: Of the resprune that measured it.
        made: As in `Study`.
    """

    name: str
    path: str
    sha256: str
    data: DataSummary | None
    points: tuple[FrontierPoint, ...]
    version: str
    made: Mapping[str, Any] = field(default_factory=dict)
