"""Many looks at once: how unlikely a difference would be by chance, and which of many differences stand together.

A leaf module like metrics.statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from metrics.statistics import Estimate

LEAST = 1e-12
"""Smaller probabilities are this one: what is known of the tails says nothing of them."""


def by_chance(found: Estimate) -> float | None:
    """The two-sided p-value of a difference: 1 minus the level at which its interval would touch zero. None where it
    has no interval, or one without a width, which chance has no part in.

    What several seeds left open (details `per_seed`) grows with the level as Student's t, everything else as a normal
    deviate or, with details `freedom`, as Student's t with so many degrees; of an interval that is not symmetric the
    side that faces zero counts. With one seed it is the chance of other items alone, not of another training.
    """
    if found.value is None or found.low is None or found.high is None or found.low == found.high:
        return None
    gap, reach = abs(found.value), found.value - found.low if found.value > 0 else found.high - found.value
    if reach <= 0:
        return None
    values, freedom = found.details.get("per_seed", ()), found.details.get("freedom", math.inf)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0

    def of_seeds(p: float) -> float:
        return -error * float(stdtrit(len(values) - 1, p / 2)) if error else 0.0

    rest = math.sqrt(max(0.0, reach**2 - of_seeds(0.05) ** 2)) / _quantile(0.05, freedom)

    def beyond(p: float) -> float:
        """How far an interval at this level reaches beyond zero."""
        return math.hypot(of_seeds(p), rest * _quantile(p, freedom)) - gap

    return float(brentq(beyond, LEAST, 1.0)) if beyond(LEAST) > 0 else LEAST


def _quantile(p: float, freedom: float) -> float:
    return float(-ndtri(p / 2) if math.isinf(freedom) else -stdtrit(freedom, p / 2))


def holm(chances: Sequence[float]) -> list[bool]:
    """Which hypotheses are rejected, by their p-values, so that the probability of any wrong rejection is at most 5%,
    however they hang together (Holm, Scandinavian Journal of Statistics 1979)."""
    ranked = sorted(range(len(chances)), key=lambda place: chances[place])
    left = [False] * len(chances)
    for rank, place in enumerate(ranked):
        if chances[place] > 0.05 / (len(chances) - rank):
            break
        left[place] = True
    return left


def standing(chances: Sequence[float | None], apart: Sequence[bool]) -> list[bool]:
    """Of differences with these p-values, those told apart each on its own (`apart`) that are still with Holm's
    correction for all of them. What chance has no part in (None) stays as it is."""
    looked_at = [place for place, chance in enumerate(chances) if chance is not None or not apart[place]]
    left = holm([chances[place] or 1.0 if apart[place] else 1.0 for place in looked_at])
    stands = dict(zip(looked_at, left, strict=True))
    return [stands.get(place, True) for place in range(len(chances))]
