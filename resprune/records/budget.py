"""What a user wants of a pruned network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from resprune.arguments import check_number
from resprune.errors import UsageError

Method = Literal["surgical", "stagewise", "tail"]
"""Which blocks may go for a budget: any, the last of every stage, the last of the network."""


@dataclass(frozen=True)
class Budget:
    """What a pruned network may cost; None is no limit.

    Attributes:
        macs, parameters: Fractions of the original's that may be left, above 0 and below 1.
        speedup: How many times faster it must be, above 1; measured.
        max_drop: Points of accuracy that may be lost, at least 0.
    """

    macs: float | None = None
    parameters: float | None = None
    speedup: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                check_number(name, value)
        for value in (self.macs, self.parameters):
            if value is not None and not 0 < value < 1:
                raise UsageError(
                    f"a target is a fraction above 0 and below 1, got {value:g}", hint="for example 0.6"
                )
        if self.speedup is not None and not 1 < self.speedup < math.inf:
            raise UsageError(f"a speedup is a factor above 1, got {self.speedup:g}", hint="for example 1.5")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UsageError(
                f"the largest drop is given in points of accuracy from 0 to 100, got {self.max_drop:g}",
                hint="0.5 allows 92.6 % to become 92.1 %",
            )

    @property
    def sizes(self) -> bool:
        """Whether anything says how much must go."""
        return any(value is not None for value in (self.macs, self.parameters, self.speedup))

    def __bool__(self) -> bool:
        return self.sizes or self.max_drop is not None

    def __str__(self) -> str:
        said = []
        if self.macs is not None:
            said.append(f"at most {self.macs:g} of the MACs")
        if self.parameters is not None:
            said.append(f"at most {self.parameters:g} of the parameters")
        if self.speedup is not None:
            said.append(f"{self.speedup:g} times faster")
        if self.max_drop is not None:
            points = "1 point" if self.max_drop == 1 else f"{self.max_drop:g} points"
            said.append(f"at most {points} of accuracy lost")
        return ", ".join(said)
