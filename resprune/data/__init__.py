"""Images for a network: a data spec becomes a `Source`, that becomes `Batches` or `TrainingData`."""

from resprune.data.batches import Batches, is_small, normalise, open_data
from resprune.data.splits import CHOICE_FIRST, TEST_FIRST, VALIDATION_FIRST
from resprune.data.survey import survey
from resprune.data.training import TrainingData, TrainingImages, batches_of, open_training

__all__ = [
    "CHOICE_FIRST",
    "TEST_FIRST",
    "VALIDATION_FIRST",
    "Batches",
    "TrainingData",
    "TrainingImages",
    "batches_of",
    "is_small",
    "normalise",
    "open_data",
    "open_training",
    "survey",
]
