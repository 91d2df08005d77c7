"""What a sweep leaves for its readers: one record, as JSON, of every trial and of what each approach's best
one was."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from metrics.statistics import Estimate
from reports.schema import Status

Edge = Literal["", "smallest", "largest"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One value of the field, tried with one seed: a short run, whose own record is in `folder`, relative to this one.

    state, reason: what became of it. sources: hash of the sources that it ran with. batches: digest over all that its
    steps saw, noise and times among them. metrics: without their details.
    steps, images, flops, train_seconds, seconds: what it spent; None where it is not known. seconds: of all stages.
    """

    value: Any
    seed: int
    folder: str
    state: Status
    reason: str = ""
    sources: str = ""
    batches: str = ""
    metrics: dict[str, Estimate] = field(default_factory=dict)
    steps: int | None = None
    images: int | None = None
    flops: float | None = None
    train_seconds: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One value's rank-giving number: its mean over the seeds, None where a trial of it is not done, or lacks it."""

    value: Any
    mean: float | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What was spent on an approach, over its done trials."""

    trials: int = 0
    steps: int = 0
    images: int = 0
    flops: float = 0.0
    train_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One approach's trials and their outcome.

    settings: its own, before the swept field is set. chosen: the value with the best mean, among those whose trials
    are all done; None, with the reason, where there is none. edge: whether the chosen number is the smallest or the
    largest of the grid, so that a better one may lie outside; "" where not, and where values have no order.
    """

    approach: str
    settings: dict[str, Any]
    trials: tuple[Trial, ...]
    scores: tuple[Score, ...]
    chosen: Any = None
    reason: str = ""
    edge: Edge = ""
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One sweep: the same values, seeds and budget for every approach.

    status: done where every trial is. field, values: what was tried, such as settings.learning_rate. ranked_by: the
    metric of the averaged weights that decides. config: that of the trials, before the swept field is set: its training
    budget and warm-up are the trials'. share: of the whole budget that a trial gets. widened: the values
    to try next where an approach chose an edge; empty where none did.
    """

    schema: int = 1
    name: str
    key: str
    status: Status
    reason: str = ""
    field: str
    values: tuple[Any, ...]
    seeds: tuple[int, ...]
    ranked_by: str
    share: float
    config: dict[str, Any]
    approaches: tuple[Tuned, ...]
    widened: tuple[Any, ...] = ()
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
