"""Head against base in interleaved pairs: one works while the other waits, in alternating order, so that what slows the
machine for a while slows both; the verdict is the median of paired ratios and its interval. No torch."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from bench.gates import clock
from bench.gates.workers import Worker, WorkerError
from bench.quantiles import median_interval

MOST_CALLS = 10_000


class BaseError(RuntimeError):
    """The base can't do a case that the head can: it is new, or its code has another shape."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """ratios: seconds of the head over the base's, a pair each. seconds: the head's median of a call."""

    ratios: tuple[float, ...]
    seconds: float

    @property
    def median(self) -> float:
        """Of the ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """Order statistics that hold the median with 95%, whatever the distribution."""
        bounds = median_interval(sorted(self.ratios))
        return bounds if bounds is not None else (-math.inf, math.inf)

    @property
    def told(self) -> tuple[float, float, float]:
        """Median, low, high."""
        return (self.median, *self.interval)

    def slower(self, limit: float) -> bool:
        """Whether the median is above the limit, and the interval is above 1: a wide one proves nothing."""
        return self.median > limit and self.interval[0] > 1.0

    def suspicious(self, limit: float) -> bool:
        """Whether the median is nearer to the limit than to 1, however wide the interval: to be measured again."""
        return self.median > halfway(limit)

    def undecided(self, limit: float) -> bool:
        """Whether the limit lies in the interval: more pairs may say on which side of it the median is. Always so of
        fewer than six."""
        return self.interval[0] <= limit < self.interval[1]

    def with_more(self, more: Compared) -> Compared:
        """These pairs and those."""
        seconds = statistics.mean((self.seconds, more.seconds))
        return Compared(ratios=(*self.ratios, *more.ratios), seconds=seconds)


def halfway(limit: float) -> float:
    """The ratio between 1 and the limit above which a case is suspected."""
    return (1.0 + limit) / 2


def compare(base: Worker, head: Worker, case: str, *, pairs: int, seconds: float, about: float) -> Compared:
    """Pairs of a case until the ratio `about` lies outside their interval, so many at most; each measurement of about
    so many seconds, all on one processor: what else is at work on the machine may slow one of two. WorkerError where
    the head can't do it, BaseError where only the base can't."""
    for worker in (base, head):
        worker.ask("prepare", case=case)
    ready, fault = None, None
    try:
        ready = base.answer()
    except WorkerError as error:
        fault = BaseError(str(error))
    mine = head.answer()
    if ready is None:
        assert fault is not None
        raise fault
    calls = max(1, min(MOST_CALLS, math.ceil(seconds / max(min(ready["seconds"], mine["seconds"]), 1e-9))))
    words = {"case": case, "calls": calls, "processor": clock.processor()}
    found = Compared(ratios=(), seconds=0.0)
    own: list[float] = []
    while len(own) < pairs and found.undecided(about):
        order = (base, head) if len(own) % 2 else (head, base)
        taken = {worker: worker.call("time", **words)["seconds"] for worker in order}
        own.append(taken[head])
        ratio = taken[head] / max(taken[base], 1e-12)
        found = Compared(ratios=(*found.ratios, ratio), seconds=statistics.median(own))
    return found
