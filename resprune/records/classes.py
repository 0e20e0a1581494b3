"""What the exits of a network make of every class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Classwise:
    """Accuracy of every class at every exit.

    Attributes:
        counts: Number of images of every class.
        hits: For every exit 0..N the images of every class whose top class is right.
        names: Of the classes, as the data has them; None where it has none. May be fewer than the network's.
    """

    counts: tuple[int, ...]
    hits: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] | None = None

    def accuracy(self, exit_: int, label: int) -> float | None:
        """Return one accuracy, a fraction of one; None for a class without images."""
        count = self.counts[label]
        return self.hits[exit_][label] / count if count else None

    def name(self, label: int) -> str:
        """Return a class's name, or its number."""
        return self.names[label] if self.names is not None and label < len(self.names) else str(label)

    def to_frame(self) -> pandas.DataFrame:
        """Return a table, one line a class: ``class, name, images`` and ``exit_0`` to ``exit_N``."""
        import pandas

        labels = range(len(self.counts))
        columns = {"class": labels, "name": [self.name(label) for label in labels], "images": self.counts}
        exits = {f"exit_{k}": [self.accuracy(k, label) for label in labels] for k in range(len(self.hits))}
        return pandas.DataFrame(columns | exits).astype(dict.fromkeys(exits, "float64"))
