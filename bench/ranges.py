"""Bounds of numbers in configs and settings, as annotations. Standard library only; a leaf module: anyone may
import it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The bounds of a number, both allowed; `bench.validation` holds every config to them.

    above: the lower bound itself is not allowed.
    multiple: whole numbers must be a multiple of this.
    """

    low: float
    high: float
    above: bool = False
    multiple: int = 1

    def holds(self, value: float) -> bool:
        """Whether a number is inside. NaN is outside every bound."""
        inside = self.low <= value <= self.high and not (self.above and value == self.low)
        return inside and (self.multiple == 1 or value % self.multiple == 0)


Seed = Annotated[int, Range(0, 2**63 - 1)]
Count = Annotated[int, Range(1, 10**9)]
Width = Annotated[int, Range(1, 65_536)]
Depth = Annotated[int, Range(1, 1024)]
Share = Annotated[float, Range(0, 1)]
Rate = Annotated[float, Range(0, 10, above=True)]
Weight = Annotated[float, Range(0, 1000)]
