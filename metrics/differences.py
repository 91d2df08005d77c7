"""What may be said of two estimates of one metric: how far they are apart, and whether they are told apart.

A leaf module like metrics.statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import ndtri

from bench.seeds import derive
from metrics.statistics import (
    COUNTED,
    NO_SPREAD,
    TAILS,
    Better,
    Estimate,
    by_stratum,
    interval_of_mean,
    reach_of_blocks,
)

Word = Literal["better", "worse", "not told apart"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One estimate minus another of the same metric.

    estimate: the difference with its interval, in the metric's own sign. word: what may be said of the first.
    paired: whether the items were the same, and compared one by one. needed: items an approach at which a difference
    of this size would be found four times in five (power 0.8), were it real; None where that can't be said, as of a
    jackknife's, whose number itself depends on n.
    """

    estimate: Estimate
    word: Word
    paired: bool
    needed: int | None


def difference(a: Estimate, b: Estimate, *, seed: int = 0) -> Difference:
    """a minus b, and whether a is better. ValueError where they differ in unit or direction, or have no direction.

    Over the same items (details `items`) it is the items' differences, or the blocks', that are judged. Otherwise the
    two intervals are combined as of independent estimates (Zou & Donner, Statistics in Medicine 2008). Exact counts
    are told apart by their sign. Where an interval is missing nothing is told apart, and the reason says why.
    """
    if (a.unit, a.better) != (b.unit, b.better) or not a.better:
        raise ValueError(f"can't compare {a.unit!r}, {a.better!r} with {b.unit!r}, {b.better!r}")
    if a.value is None or b.value is None:
        missing = Estimate.missing(a.reason if a.value is None else b.reason, unit=a.unit, better=a.better)
        return Difference(estimate=missing, word="not told apart", paired=False, needed=None)
    gap, n, reason = a.value - b.value, min(a.n, b.n), ""
    if a.reason == b.reason == COUNTED:
        exact = replace(a, value=gap, n=1, details={})
        return Difference(estimate=exact, word=word(gap, gap, a.better), paired=False, needed=1 if gap else None)
    (left, right), (own, others) = _bounds(a), _bounds(b)
    low: float | None
    high: float | None
    paired = same_items(a, b)
    if left is not None and own is not None and (left, own) == (right, others):
        low = high = gap
    elif paired and "per_item" in a.details:
        low, high, reason = _paired(a, b, seed)
    elif paired:
        reach = reach_of_blocks(np.subtract(a.details["pseudo"], b.details["pseudo"]), np.array(a.details["sizes"]))
        spread = reach > 1e-12 * max(abs(a.value), abs(b.value))
        low, high, reason = (gap - reach, gap + reach, "") if spread else (None, None, NO_SPREAD)
    elif left is None or right is None or own is None or others is None:
        low, high, reason = None, None, a.reason or b.reason
    else:
        low = gap - math.hypot(a.value - left, others - b.value)
        high = gap + math.hypot(right - a.value, b.value - own)
    told = replace(a, value=gap, low=low, high=high, n=n, reason=reason, details=freedom(a, b))
    if low is None or high is None:
        return Difference(estimate=told, word="not told apart", paired=paired, needed=None)
    items = not any("per_seed" in each.details or "pseudo" in each.details for each in (a, b))
    needed = samples_needed(gap, high - low, n) if items else None
    return Difference(estimate=told, word=word(low, high, a.better), paired=paired, needed=needed)


def freedom(*estimates: Estimate) -> dict[str, int]:
    """The fewest degrees of freedom of Student's t, by blocks or seeds, in these intervals; empty without any."""
    of = [len(e.details[name]) - 1 for e in estimates for name in ("pseudo", "per_seed") if name in e.details]
    return {"freedom": min(of)} if of else {}


def _paired(a: Estimate, b: Estimate, seed: int) -> tuple[float | None, float | None, str]:
    """Bounds of the mean difference of two estimates' items, and why there are none."""
    first, second = np.array(a.details["per_item"]), np.array(b.details["per_item"])
    groups = by_stratum(first - second, a.details.get("strata"))
    if a.unit != "share" or not np.isin([first, second], (0, 1)).all():
        low, high, reason = interval_of_mean(groups, np.random.default_rng(derive(seed, "bootstrap")), shares=False)
        return low, high, reason if low is None else ""
    # Successes: one more discordant pair either way (Bonett & Price 2012), for few of them have hardly any spread.
    more = 1 / len(groups)
    sizes = np.array([len(group) + 2 * more for group in groups])
    up, down = ((np.array([(group == sign).sum() for group in groups]) + more) / sizes for sign in (1, -1))
    gap = np.mean([group.mean() for group in groups])
    reach = ndtri(TAILS[1]) * math.sqrt(((up + down - (up - down) ** 2) / sizes).sum()) / len(groups)
    centre = (up - down).mean()
    return min(float(centre - reach), float(gap)), max(float(centre + reach), float(gap)), ""


def samples_needed(gap: float, width: float, n: int) -> int | None:
    """How many items would show a difference of `gap` with power 0.8 at the 5% level, given that n items gave a 95%
    interval of `width`, which shrinks as 1 / sqrt(n). None for none, or one that no number of items shows."""
    if gap == 0:
        return None
    ratio = float((ndtri(TAILS[1]) + ndtri(0.8)) / (2 * ndtri(TAILS[1]))) * width / abs(gap)
    needed = n * ratio * ratio
    return max(2, math.ceil(needed)) if needed < 2**53 else None


def constant(estimate: Estimate) -> bool:
    """Whether a number is the same for each of several items, such as a number of evaluations."""
    items = estimate.details.get("per_item", ())
    return len(items) > 1 and len(set(items)) == 1


def _bounds(estimate: Estimate) -> tuple[float | None, float | None]:
    """Its interval, which has no width where other items would give the same number."""
    if estimate.low is None and (estimate.reason == COUNTED or constant(estimate)):
        return estimate.value, estimate.value
    return estimate.low, estimate.high


def same_items(a: Estimate, b: Estimate) -> bool:
    """Whether both rest on the same items and hold a value of each, or on the same blocks of them."""
    if "items" not in a.details or a.details["items"] != b.details.get("items"):
        return False
    values, groups = ("per_item", "strata") if "per_item" in a.details else ("pseudo", "sizes")
    first, second = a.details.get(values), b.details.get(values)
    if first is None or second is None or len(first) != len(second):
        return False
    return all(a.details.get(name) == b.details.get(name) for name in (groups, "deal"))


def word(low: float, high: float, better: Better) -> Word:
    """What an interval of a difference says of the first."""
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == (better == "higher") else "worse"
