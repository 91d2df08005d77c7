"""Estimates, and what may be said of them. No torch; a leaf module: anyone may import it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


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


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], n: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float | None, float | None]:
    """The 95% percentile interval of a statistic of n items, called with the indices of a resample. Seeded; only for
    statistics of which a repeated item does no harm, such as means and ratios of sums. (None, None) where n < 2."""
    if n < 2:
        return None, None
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(n, size=n)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_estimate(
    values: NDArray[np.float64],
    *,
    better: Literal["higher", "lower", ""] = "",
    unit: str = "",
    details: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Estimate:
    """The mean over items, with a seeded bootstrap over them. Missing where there is no item, or one is not finite."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        reason = "no items" if not len(values) else f"{int((~np.isfinite(values)).sum())} items are not finite"
        return Estimate.missing(reason, unit=unit, better=better)
    low, high = bootstrap(lambda index: float(values[index].mean()), len(values), seed=seed)
    return Estimate(
        value=float(values.mean()),
        low=low,
        high=high,
        n=len(values),
        unit=unit,
        better=better,
        reason="" if low is not None else "one item has no interval",
        details=details or {},
    )
