"""Estimates, and what may be said of them. No torch; a leaf module: anyone may import it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number that a record holds. value: None where it is missing, and then `reason` says why; never 0 for unknown.

    low, high: the 95% interval, or None, and then `reason` says why there is none. n: how many items it rests on.
    details: provenance and whatever a reader may want: weights hash, resize, batch size, chance level, per-item values.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the promise: an interval or a reason why not."""
        if (self.value is None or self.low is None or self.high is None) and not self.reason:
            raise ValueError("an estimate without a value or an interval needs a reason")

    @classmethod
    def missing(cls, reason: str, *, unit: str = "", better: Literal["higher", "lower", ""] = "") -> Self:
        """A number that could not be had."""
        return cls(value=None, reason=reason, unit=unit, better=better)

    @classmethod
    def counted(cls, value: float, *, unit: str, better: Literal["higher", "lower", ""] = "", **details: Any) -> Self:
        """An exact number: a count has no interval."""
        return cls(value=value, n=1, unit=unit, better=better, reason="counted, not sampled", details=details)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave; TypeError on an unknown field."""
        return cls(**values)
