"""What an export wrote."""

from __future__ import annotations

from dataclasses import dataclass

from resprune.records.networks import NetworkSummary, Preprocessing
from resprune.records.pruning import Verification


@dataclass(frozen=True)
class ReadBack:
    """What reading back showed: files were read again and their logits compared with the source network's.

    Attributes:
        max_abs_difference: Largest difference of two logits.
        tolerance: The largest that passes.
        inputs: ``images`` or ``seeded noise``.
        samples: Number of them.
        readers: What read the files, such as ``timm 1.0.26``.
        new_process: Whether that was a process of its own; an adapter of the user's is known to this one only.
    """

    max_abs_difference: float
    tolerance: float
    inputs: str
    samples: int
    readers: tuple[str, ...]
    new_process: bool

    @property
    def place(self) -> str:
        """What read the files, and where."""
        return " and ".join(self.readers) + (" in a new process" if self.new_process else "")

    @property
    def against(self) -> str:
        """What the difference was taken against, in words."""
        kind = "images" if self.inputs == "images" else "seeded images"
        return f"the source network on {self.samples} {kind}, read by {self.place}"


@dataclass(frozen=True)
class Saved:
    """What saving a network wrote.

    Attributes:
        files: Names in the folder.
        read_back: None where it was not read back.
    """

    files: tuple[str, ...]
    read_back: ReadBack | None


@dataclass(frozen=True)
class ExportOutcome:
    """What `export` did.

    Attributes:
        origin: The network as it was given.
        result: As it was written; larger where blocks are whole again.
        format: Its name on the command line.
        library: What loads it.
        constructor: Expression of torchvision's that builds it; empty in other formats.
        folded: Number of batch norms that went into convolutions.
        merged: Number of projections that went into the ones behind them.
        preprocessing: Of its input images.
        class_names: One for each logit, or none where they are not known.
        verified: What reading it back showed.
        samples: Number of images for that.
        folder: Where it was written, or the file is.
        files: Their names.
    """

    origin: NetworkSummary
    result: NetworkSummary
    format: str
    library: str
    constructor: str
    folded: int
    merged: int
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    verified: Verification
    samples: int
    folder: str
    files: tuple[str, ...]
