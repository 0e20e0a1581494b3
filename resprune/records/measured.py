"""What was measured, and on which images."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from resprune.records.classes import Classwise
from resprune.records.networks import NetworkSummary, Preprocessing

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class DataSummary:
    """Which images a figure was measured on, and how they became the network's input.

    Attributes:
        spec: The data, as the user named it.
        split: None where the data is not divided.
        samples: How many images of it.
        preprocessing: Of the network; None where two networks have their own.
        sha256: Of all the split's files, whichever images were drawn; empty where it is not known.
        sha256_of: What of them was hashed; see `resprune.data.identity.identify`.
    """

    spec: str
    split: str | None
    samples: int
    preprocessing: Preprocessing | None = None
    sha256: str = ""
    sha256_of: str = ""


@dataclass(frozen=True)
class Survey:
    """What a network from scratch must know of its training images; all have one size.

    Attributes:
        spec: The data, as the user named it.
        split: None where the data is not divided.
        images: Number of images in the split.
        classes: Number of class names, else 1 + the largest label.
        channels, height, width: Of every image; 1 or 3 channels, pixels.
        mean, std: Per channel, in units of the [0, 1] pixel range.
        measured: Number of images that size, mean and deviation were measured on.
    """

    spec: str
    split: str | None
    images: int
    classes: int
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    measured: int


@dataclass(frozen=True)
class Evaluation:
    """Final accuracy (top 1, top 5; fractions of one) and mean cross-entropy in nats; None without labels."""

    accuracy: float | None
    accuracy_top5: float | None
    loss: float | None
    samples: int


@dataclass(frozen=True)
class BlockRow:
    """What one pass over the data says about block k; `exit_*` is exit k, before the block.

    Attributes:
        index: k.
        path: The block's name in the native network.
        stage: Zero-based.
        exit_accuracy, exit_loss: Of exit k; None without labels.
        residual_norm: Root mean square over samples of ``||yhat_{k+1} - yhat_k||``; logits' unit.
        residual_norm_relative: The same over the root mean square of ``||yhat_N||``.
        parameter_norm: L2 norm of the residual branch's parameters.
        drop_change_relative: Root mean square change of the final output when block k alone is reduced
            to its skip step, over the root mean square of ``||yhat_N||``; None when not measured.
        drop_agreement: Fraction of samples whose top class that leaves as it was; None likewise.
        macs, parameters: Of the whole block, for one image.
    """

    index: int
    path: str
    stage: int
    exit_accuracy: float | None
    exit_loss: float | None
    residual_norm: float
    residual_norm_relative: float
    parameter_norm: float
    drop_change_relative: float | None
    drop_agreement: float | None
    macs: int
    parameters: int


@dataclass(frozen=True)
class Trajectory:
    """All exits of a network over one pass of the data.

    Attributes:
        final: Accuracy and loss of exit N, the network itself.
        rows: One for each block, k = 0..N-1.
        final_norm: Root mean square over samples of the L2 norm of ``yhat_N``; logits' unit.
        classwise: Accuracy of every class at every exit; None where it was not asked for.
    """

    final: Evaluation
    rows: tuple[BlockRow, ...]
    final_norm: float
    classwise: Classwise | None = None

    @property
    def depth(self) -> int:
        """N, the number of blocks."""
        return len(self.rows)

    def to_frame(self) -> pandas.DataFrame:
        """Return the rows as a table, one line a block, the JSON keys as columns."""
        import pandas

        return pandas.DataFrame([asdict(row) for row in self.rows], columns=[f.name for f in fields(BlockRow)])

    @property
    def residual_norms_relative(self) -> tuple[float, ...]:
        """Relative residual norm of every block."""
        return tuple(row.residual_norm_relative for row in self.rows)


@dataclass(frozen=True)
class Remedy:
    """An assumption that fits labelled images better than the one that was made.

    Attributes:
        flags: What the command line takes for it.
        accuracy: Fraction of one, with it.
        before: The same without it, on the same images.
        samples: Number of those images.
    """

    flags: str
    accuracy: float
    before: float
    samples: int


@dataclass(frozen=True)
class Band:
    """What random removals of as many blocks did, one entry a repetition.

    Attributes:
        removed: Number of blocks that each of them removed.
        change_relative: Root mean square change of the final output over that of its norm; no unit.
        agreement: Fraction of images whose top class stayed.
    """

    removed: int
    change_relative: tuple[float, ...]
    agreement: tuple[float, ...]


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found.

    Attributes:
        network: That was measured.
        data: The images.
        trajectory: All exits, residuals and, if asked for, drops.
        tolerance: Of the tail rule.
        suggested_depth: M(tolerance).
        control: What random removals of as many blocks as the tail rule suggests do, of one where it suggests
            none; None where drops were not measured.
    """

    network: NetworkSummary
    data: DataSummary
    trajectory: Trajectory
    tolerance: float
    suggested_depth: int
    control: Band | None = None
