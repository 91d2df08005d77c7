"""Numbers of several trainings that differ in their seed. A leaf module like metrics.statistics.

Trainings of one approach are measured on the same items (captions, pictures, documents). So the mean over seeds errs in
two ways: with other seeds it would be another, and so it would on other items, however many seeds there are. The first
error is known from the spread of the seeds' numbers, the second from the spread of the items' means over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from metrics.differences import Difference, constant, difference, freedom, same_items, word
from metrics.statistics import COUNTED, READ_ONCE, Better, Estimate, interval_of_items

SEEDS_ALONE = "seeds"
SEEDS_AND_ITEMS = "seeds and items"
AS_IF_SHARED = "seeds and items, as if all seeds had the same"
SAME = "every seed gave the same number, and nothing says how far another would be"
OF_ITEMS = ("per_item", "own", "strata", "pseudo", "sizes", "deal", "items")
"""Details that tell what each item gave, and which items they are."""
Reach = tuple[float, float]
"""How far an interval reaches below and above its number."""


def across_seeds(
    values: Sequence[float], *, unit: str = "", better: Better = "", details: Mapping[str, Any] | None = None
) -> Estimate:
    """The mean of one number from several seeds, with Student's t interval, which covers the seeds alone; one seed has
    none. Details hold `per_seed`."""
    found = {**(details or {}), "per_seed": [float(value) for value in values]}
    n = len(values)
    if n == 0:
        return Estimate.missing("there are no seeds", unit=unit, better=better)
    value = float(np.mean(values))
    told: dict[str, Any] = {"value": value, "n": n, "unit": unit, "better": better, "details": found}
    if n == 1:
        return Estimate(reason="one seed: the spread across seeds is not known", **told)
    reach = float(stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(low=value - reach, high=value + reach, **told)


def mean_over_seeds(
    estimates: Sequence[Estimate], *, timed: bool = False, details: Mapping[str, Any] | None = None
) -> Estimate:
    """The mean of one number over seeds, with a 95% interval for other seeds and other items.

    It reaches sqrt(s^2 + i^2) from the mean: s is the reach of Student's interval over the seeds' numbers, i that of
    the items' (or a jackknife's blocks') means over seeds, resampled as one seed's are. Where the seeds' items differ
    or are not known, or these means have no interval, i is the root mean square of the seeds' own reaches, as if they
    shared their items. What is left over for each seed and item is in both, so that the interval is a little wide
    (Owen 2007, "The pigeonhole bootstrap", on such tables). Estimates without an interval have no i, nor have those
    that are timed: what a clock gave has no items that seeds share. Seeds that all gave the same number, without an i
    and not by counting, have no interval.

    n: seeds. Details hold `per_seed` and `interval`, what it covers. ValueError where an estimate has no value.
    """
    values = [_value(estimate) for estimate in estimates]
    unit, better = (estimates[0].unit, estimates[0].better) if estimates else ("", "")
    told = across_seeds(values, unit=unit, better=better, details=details)
    if len(values) < 2:
        return told
    items, covers = (None, SEEDS_ALONE) if timed else _items(estimates)
    return _widened(told, items, covers, exact=all(map(_exact, estimates)))


def difference_over_seeds(pairs: Sequence[tuple[Estimate, Estimate]], *, timed: bool = False) -> Difference:
    """The mean over seeds of one number minus another, both of one seed in each pair: `mean_over_seeds` of what the
    two differ by, item by item where all rest on the same. Details hold `freedom` where the items' part is
    a jackknife's."""
    first = pairs[0][0]
    values = [_value(a) - _value(b) for a, b in pairs]
    told = across_seeds(values, unit=first.unit, better=first.better, details=freedom(*pairs[0]))
    if len(pairs) > 1:
        items, covers = (None, SEEDS_ALONE) if timed else _items_between(pairs)
        told = _widened(told, items, covers, exact=all(_exact(estimate) for pair in pairs for estimate in pair))
    low, high = told.low, told.high
    known = "not told apart" if low is None or high is None else word(low, high, first.better)
    return Difference(estimate=told, word=known, paired=True, needed=None)


def only_items(estimate: Estimate) -> Estimate:
    """Without those details that say nothing of its items: what comparisons need."""
    return replace(estimate, details={name: estimate.details[name] for name in OF_ITEMS if name in estimate.details})


def _value(estimate: Estimate) -> float:
    if estimate.value is None:
        raise ValueError(f"a number is missing ({estimate.reason}); leave its seed out of the mean")
    return estimate.value


def _exact(estimate: Estimate) -> bool:
    """Whether a number can be no other on other items, as what is counted, or read, rests on none."""
    return estimate.reason in (COUNTED, READ_ONCE) or estimate.low == estimate.high is not None or constant(estimate)


def _widened(told: Estimate, items: Reach | None, covers: str, *, exact: bool) -> Estimate:
    """A mean over seeds whose interval covers items as well. exact: whether it needs none for them."""
    told = replace(told, details={**told.details, "interval": covers})
    if told.value is None or told.low is None or told.high is None:
        return told
    if items is None:
        return replace(told, low=None, high=None, reason=SAME) if told.low == told.high and not exact else told
    down, up = math.hypot(told.value - told.low, items[0]), math.hypot(told.high - told.value, items[1])
    return replace(told, low=told.value - down, high=told.value + up)


def _items(estimates: Sequence[Estimate]) -> tuple[Reach | None, str]:
    """What the items leave open of the mean over seeds, None where no interval says, and what the mean's covers."""
    own = [_reach(estimate) for estimate in estimates]
    if all(reach == (0.0, 0.0) for reach in own):  # text kept token for token, by whatever share it is counted
        return (0.0, 0.0), SEEDS_AND_ITEMS
    if _shared(estimates) and (reach := _reach(interval_of_items(_averaged(estimates)))):
        return reach, SEEDS_AND_ITEMS
    return _as_if_shared(own)


def _items_between(pairs: Sequence[tuple[Estimate, Estimate]]) -> tuple[Reach | None, str]:
    """The same of a mean difference."""
    firsts, seconds = zip(*pairs, strict=True)
    if _shared((*firsts, *seconds)) and (reach := _reach(difference(_averaged(firsts), _averaged(seconds)).estimate)):
        return reach, SEEDS_AND_ITEMS
    return _as_if_shared([_reach(difference(a, b).estimate) for a, b in pairs])


def _shared(estimates: Sequence[Estimate]) -> bool:
    """Whether all rest on the same items. Blocks of a jackknife that don't say how they were dealt (records before
    `deal`) are the same within a seed only."""
    first = estimates[0]
    dealt = "per_item" in first.details or "deal" in first.details
    return dealt and all(same_items(first, other) for other in estimates)


def _averaged(estimates: Sequence[Estimate]) -> Estimate:
    """One estimate of the same items, each with its mean over the seeds; its bounds are still the first seed's."""
    first = estimates[0]
    name = "per_item" if "per_item" in first.details else "pseudo"
    means = np.mean([estimate.details[name] for estimate in estimates], axis=0)
    value = float(np.mean([_value(estimate) for estimate in estimates]))
    return replace(first, value=value, details={**first.details, name: means.tolist()})


def _reach(estimate: Estimate) -> Reach | None:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return estimate.value - estimate.low, estimate.high - estimate.value


def _as_if_shared(reaches: Sequence[Reach | None]) -> tuple[Reach | None, str]:
    """The root mean square of those that are known."""
    known = [reach for reach in reaches if reach is not None]
    if not known:
        return None, SEEDS_ALONE
    down, up = np.sqrt(np.mean(np.square(known), axis=0))
    return (float(down), float(up)), AS_IF_SHARED
