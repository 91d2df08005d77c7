"""What `python -m bench reproduce` leaves: one record, as JSON, of a published table's rows, run here, and of
what became of each of its orderings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from metrics.statistics import Estimate
from reports.schema import Status

Verdict = Literal["holds", "contradicted", "not told apart", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """One run of a row, whose own record is in `folder`, relative to this one. state, reason: what became of it.
    batches: digest over all that its steps saw. metrics: without their details."""

    seed: int
    folder: str
    state: Status
    reason: str = ""
    batches: str = ""
    steps: int | None = None
    images: int | None = None
    seconds: float | None = None
    metrics: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: its published numbers, what was run for it, and the mean over seeds of what stands for each
    measure."""

    name: str
    approach: str
    settings: dict[str, Any]
    published: dict[str, float]
    runs: tuple[Done, ...]
    means: dict[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stand:
    """What stands here for a published measure: a metric of the runs' records, "" where nothing does, and why."""

    measure: str
    metric: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """Two rows whose published numbers differ: `better` is the row that was better. difference: of the metric that
    stands for the measure, better row minus worse row, over the same seeds."""

    measure: str
    metric: str
    better: str
    worse: str
    published: tuple[float, ...]
    difference: Estimate
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One table, tried. status: done where every run is. share: of the budget that each run got. config: that
    of all runs, but for the seed."""

    schema: int = 1
    name: str
    key: str
    table: str
    source: str
    note: str
    status: Status
    reason: str = ""
    share: float
    seeds: tuple[int, ...]
    config: dict[str, Any]
    stands: tuple[Stand, ...] = ()
    rows: tuple[Row, ...] = ()
    orderings: tuple[Ordering, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
