"""What an export wrote."""

from __future__ import annotations

from dataclasses import dataclass

from resprune.records.networks import NetworkSummary, Preprocessing
from resprune.records.results import Verification


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
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    verified: Verification
    samples: int
    folder: str
    files: tuple[str, ...]
