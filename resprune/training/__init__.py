"""The training loop, for fine-tuning and for training from scratch."""

from resprune.training.engine import disband, end_trackers, engine, start_trackers
from resprune.training.loop import Listener, Trained, lay_out, train
from resprune.training.schedule import Plan
from resprune.training.student import heads_of

__all__ = [
    "Listener",
    "Plan",
    "Trained",
    "disband",
    "end_trackers",
    "engine",
    "heads_of",
    "lay_out",
    "start_trackers",
    "train",
]
