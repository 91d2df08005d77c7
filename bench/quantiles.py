"""Order statistics of a few values. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median_interval(ordered: Sequence[float]) -> tuple[float, float] | None:
    """The order statistics that hold the median with a probability of at least 95%, whatever the distribution (the
    number of values below the median is binomial); None where there are too few values, fewer than 6."""
    n = len(ordered)
    tail, rank = 0.0, -1
    log_half = n * math.log(0.5)
    for k in range(n // 2):
        tail += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + log_half)
        if tail > 0.025:
            break
        rank = k
    return None if rank < 0 else (ordered[rank], ordered[n - 1 - rank])
