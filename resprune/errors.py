"""The errors that a user can cause, and the exit status that each one ends a command with."""

from __future__ import annotations


def printable(text: str) -> str:
    """Escape what would break the line or steer the terminal: names in files can hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ResPruneError(Exception):
    """Something the user can mend: what is wrong, where, and what to do next, in one line.

    ``str(error)`` reads ``where: what; hint``.
    """

    exit_status = 3

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        text = what if self.where is None else f"{self.where}: {what}"
        super().__init__(printable(text if hint is None else f"{text}; {hint}"))


class UsageError(ResPruneError):
    """The request contradicts itself or names something that does not exist."""

    exit_status = 2


class CheckpointError(ResPruneError):
    """The file or folder cannot be read as a checkpoint."""


class UnsafeCheckpointError(CheckpointError):
    """Reading the file would run code that the file names."""


class ArchitectureError(ResPruneError):
    """The weights are no residual network that resprune knows, or do not fit the one they name."""


class DataError(ResPruneError):
    """The images or labels cannot be read, or do not fit the network."""


class ResultError(ResPruneError):
    """A file is no result that resprune printed, or lacks what is needed of it."""


class OutputError(ResPruneError):
    """The result cannot be written where it was asked for."""


class TrainingError(ResPruneError):
    """A training run cannot go on; what was written before stays."""

    exit_status = 1


class BudgetError(ResPruneError):
    """What was wished for cannot be had; nothing was written."""

    exit_status = 1


class VerificationError(ResPruneError):
    """A result failed its own check; nothing was written."""

    exit_status = 1
