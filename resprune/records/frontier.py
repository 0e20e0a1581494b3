"""What every size of a network is worth: figures of all depths, along one order of removals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resprune.records.comparing import Latency
from resprune.records.measured import DataSummary, Evaluation
from resprune.records.networks import NetworkSummary

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Figures:
    """What a network does on the images that judge.

    Attributes:
        evaluation: Accuracy and loss, None without labels; number of images.
        divergence: Mean of KL(original || network) of the outputs, in nats.
    """

    evaluation: Evaluation
    divergence: float


@dataclass(frozen=True)
class Point:
    """One size of the network.

    Attributes:
        removed: Block indices of the original, ascending.
        blocks: Number of blocks that stay whole.
        macs, parameters: That are left; multiply-accumulates for one image.
        latency: Of one call, measured in turns with all other points.
        raw: Right after the removal.
        statistics: With new batch-norm statistics; None where nothing was to be re-estimated.
        recovered: With all that helped on other held-out images; what is written by `prune`.
    """

    removed: tuple[int, ...]
    blocks: int
    macs: int
    parameters: int
    latency: Latency
    raw: Figures
    statistics: Figures | None
    recovered: Figures


@dataclass(frozen=True)
class Frontier:
    """All depths of a network.

    Attributes:
        network: The original.
        data: The images that judge: neither the order nor the recovery has seen them.
        choice: All images that were read; the order was found on some, the recovery fitted to others.
        method: Which blocks may go next: ``surgical``, ``stagewise`` or ``tail``.
        order: Blocks in the order in which they go.
        points: N + 1 of them, the first one the network itself.
    """

    network: NetworkSummary
    data: DataSummary
    choice: DataSummary
    method: str
    order: tuple[int, ...]
    points: tuple[Point, ...]

    def to_frame(self) -> pandas.DataFrame:
        """Return the points as a table, one line each.

        Shares (``macs_share``, ...) are fractions of the original's; ``time_share`` is the median over rounds
        of the point's time over the original's.
        """
        import pandas

        return pandas.DataFrame([self._row(point) for point in self.points])

    def _row(self, point: Point) -> dict[str, Any]:
        whole = self.points[0]
        row: dict[str, Any] = {
            "blocks": point.blocks,
            "removed": " ".join(map(str, point.removed)),
            "macs": point.macs,
            "macs_share": point.macs / whole.macs,
            "parameters": point.parameters,
            "parameters_share": point.parameters / whole.parameters,
            "latency_ms": point.latency.median_ms,
            "latency_iqr_ms": point.latency.iqr_ms,
            "time_share": point.latency.ratio_to(whole.latency).median,
        }
        for name in ("raw", "statistics", "recovered"):
            own: Figures | None = getattr(point, name)
            row[f"{name}_accuracy"] = None if own is None else own.evaluation.accuracy
            row[f"{name}_loss"] = None if own is None else own.evaluation.loss
            row[f"{name}_divergence"] = None if own is None else own.divergence
        return row
