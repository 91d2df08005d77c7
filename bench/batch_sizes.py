"""What drawing costs at a size of batch: one point of `python -m bench curve RUN --of batch`. The same for every
approach: the first held-out captions in order, the meter's clock, the device synchronised, from words to pixels."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np

from approaches.base import Approach
from bench.collection import Collection
from bench.config import Config
from bench.costs import to_pixels
from bench.energy import Energy
from bench.meter import PeakMemory
from bench.quantiles import median_interval

LEAST = 7  # batches that count: a median's interval asks for six
SECONDS = 20.0  # after which no more batches are begun than LEAST
SLOW = 100  # batches of which a 99th percentile can be told from the slowest
CAPTIONS = "the first held-out captions in order, other ones in each batch while there are any"


def cost(
    approach: Approach,
    test: Collection,
    config: Config,
    rows: int,
    pictures: int,
    advance: Callable[[int], None] | None = None,
) -> tuple[dict[str, float], dict[str, str]]:
    """A row of the curve, and of what it lacks why. rows: pictures a batch. pictures: how many captions may be drawn.

    One batch to warm up, which does not count. Then batches while there are captions for a whole one, and until SECONDS
    have gone by; LEAST of them in any case. After the last caption the first comes again. advance: is called with each
    batch's pictures.

    `seconds_per_batch` is the median, with the interval of a median; beside it stand the 90th percentile and, of SLOW
    batches or more, the 99th, else the slowest. `pictures_per_second` are those of the median batch. Memory is that of
    all batches, the first among them; energy that of those that count.
    """
    device, seconds, nfe = next(approach.parameters()).device, list[float](), list[int]()

    def batch(number: int) -> tuple[float, list[int]]:
        start = rows * number
        spent, drawn = to_pixels(approach, test, range(start, start + rows), config, first=start)
        if advance is not None:
            advance(rows)
        return spent, drawn.nfe

    with PeakMemory(device) as memory:
        batch(0)
        with Energy(device) as energy:
            while len(seconds) < LEAST or (sum(seconds) < SECONDS and rows * (len(seconds) + 2) <= pictures):
                spent, evaluations = batch(len(seconds) + 1)
                seconds.append(spent)
                nfe += evaluations
    counters = {"peak_memory_bytes": memory.estimate(), "joules_per_picture": energy.estimate()}
    found, lacking = _row(rows, sorted(seconds)), {}
    found["nfe_spent"] = float(np.mean(nfe))
    for name, each in counters.items():
        if each.value is None:
            lacking[name] = each.reason
        else:
            found[name] = each.value / (len(nfe) if name.endswith("_per_picture") else 1)
    return found, lacking


def _row(rows: int, ordered: list[float]) -> dict[str, float]:
    """The numbers of the clock. ordered: seconds of each batch that counts, ascending."""
    middle, bounds = statistics.median(ordered), median_interval(ordered)
    assert bounds is not None  # of LEAST values there is one
    slowest = "p99" if len(ordered) >= SLOW else "slowest"
    return {
        "batch": float(rows),
        "pictures": float(rows * len(ordered)),
        "repeats": float(len(ordered)),
        "pictures_per_second": rows / middle,
        "pictures_per_second_low": rows / bounds[1],
        "pictures_per_second_high": rows / bounds[0],
        "seconds_per_batch": middle,
        "seconds_per_batch_low": bounds[0],
        "seconds_per_batch_high": bounds[1],
        "seconds_per_batch_p90": float(np.quantile(ordered, 0.9)),
        f"seconds_per_batch_{slowest}": float(np.quantile(ordered, 0.99)) if slowest == "p99" else ordered[-1],
    }
