"""What measuring found, and how one metric's failure is kept from the others. Knows no metric and no approach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.console import Console
from bench.errors import UserError, first_line
from metrics.statistics import Better, Estimate

Names = Mapping[str, tuple[str, Better]]
"""Metric -> unit and direction, for when there is no number to say them with."""

FORESEEN = (UserError, ImportError, NotImplementedError, ValueError, OSError, ArithmeticError)
"""What a metric may fail with and be missing; anything else is our own mistake, and ends the run."""


@dataclass(kw_only=True)
class Measured:
    """Numbers, and what a reader looks at: pictures (uint8 N H W 3) with their prompts, captions written, traces.

    notes: sentences for the record about what was left out, cut or missing.
    """

    metrics: dict[str, Estimate] = field(default_factory=dict)
    pictures: NDArray[np.uint8] | None = None
    prompts: tuple[str, ...] = ()
    captions: list[str] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lack(self, names: Names, reason: str) -> None:
        """These are missing, for that reason, where they are not there already."""
        for name, (unit, better) in names.items():
            self.metrics.setdefault(name, Estimate.missing(reason, unit=unit, better=better))

    def attempt(self, names: Names, work: Callable[[], Mapping[str, Estimate]], console: Console | None) -> None:
        """Take what `work` measures; where it can't, `names` are missing with its reason, and nothing else is touched.
        What it leaves out of `names` is missing too, and what it gives as missing gets unit and direction. console: to
        warn on, or None to keep quiet."""
        try:
            made = dict(work())
        except FORESEEN as error:
            reason = first_line(error)
            if console is not None:
                console.warn(f"{next(iter(names), 'a metric')}: {reason}")
            self.lack(names, reason)
            return
        for name, estimate in made.items():
            unit, better = names.get(name, (estimate.unit, estimate.better))
            known = estimate.unit or estimate.better or estimate.value is not None
            self.metrics[name] = estimate if known else replace(estimate, unit=unit, better=better)
        self.lack(names, "it was not measured")


def row(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    """Estimates as numbers of a curve's row: `name`, and `name_low` and `name_high` where there is an interval. What is
    missing is left out."""
    found: dict[str, float] = {}
    for name, estimate in metrics.items():
        values = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        found |= {key: float(value) for key, value in values.items() if value is not None}
    return found
