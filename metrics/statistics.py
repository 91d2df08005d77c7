"""Estimates and their 95% intervals. No torch; a leaf module: anyone may import it.

N items. Whatever is resampled is an item that was drawn independently: a picture, a document, a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from bench.files import hash_bytes
from bench.seeds import derive

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Better = Literal["higher", "lower", ""]
TAILS = np.array([0.025, 0.975])
RESAMPLES = 4000  # of a bootstrap
BLOCKS = 16  # of a jackknife
PROJECTED = (
    1  # as `deal` of items that are what each does to a mean, which are not compared with older ones, one by one
)
DEAL, DEAL_OF_PAIRS = 0, 1  # which deal of items into blocks: each array's its own; the same for arrays of pairs
COUNTED = "counted, not sampled"
READ_ONCE = "one reading of a machine's counter"
ONE_ITEM = "one item has no interval"
NO_SPREAD = "without any block of the items the number is the same"


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
    better: Better = ""
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the promise: an interval or a reason why not."""
        if (self.value is None or self.low is None or self.high is None) and not self.reason:
            raise ValueError("an estimate without a value or an interval needs a reason")

    @classmethod
    def missing(cls, reason: str, *, unit: str = "", better: Better = "") -> Self:
        """A number that could not be had."""
        return cls(value=None, reason=reason, unit=unit, better=better)

    @classmethod
    def counted(cls, value: float, *, unit: str, better: Better = "", **details: Any) -> Self:
        """An exact number: a count has no interval."""
        return cls(value=value, n=1, unit=unit, better=better, reason=COUNTED, details=details)

    @classmethod
    def reading(cls, value: float, *, unit: str, better: Better = "", **details: Any) -> Self:
        """What a machine's counter said, once: the next reading may differ, by how much nobody knows."""
        return cls(value=value, n=1, unit=unit, better=better, reason=READ_ONCE, details=details)

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
    """The 95% interval of a statistic of n items, called with the indices of each resample: percentiles, widened for
    small n (Hesterberg, arXiv 1411.5279, section 4.4). Seeded; only for statistics of which a repeated item does no
    harm, such as means and ratios of sums. (None, None) where n < 2."""
    if n < 2:
        return None, None
    generator = np.random.default_rng(derive(seed, "bootstrap"))
    values = [statistic(generator.integers(n, size=n)) for _ in range(resamples)]
    low, high = np.quantile(values, _widened(n))
    return float(low), float(high)


def _widened(n: int) -> Floats:
    """The percentiles that make up for the n - 1 in a variance, and for its being estimated."""
    return np.asarray(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, TAILS)))


def mean_estimate(
    values: Sequence[float] | Floats,
    *,
    strata: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    seed: int = 0,
    unit: str = "",
    better: Better = "",
    details: Mapping[str, Any] | None = None,
) -> Estimate:
    """The mean of independent items, with a seeded 95% bootstrap interval; with strata, the unweighted mean of the
    strata's means, resampled within each.

    The interval is studentised (bootstrap-t: Efron & Tibshirani 1993, ch. 12), which covers 93 to 97% from 12 items on,
    skewed or not; percentile and BCa intervals fall to 88%. Shares (unit "share") of successes, 0 and 1, are drawn from
    Jeffreys' posterior, for a run of successes has no spread; each of G strata gets a G-th of the prior, for biases add
    up. Where some resample has next to no spread, it is `bootstrap`'s interval.

    keys: the items' names; two estimates with the same are compared item by item. Details hold `per_item`, `items` (a
    hash of the keys), `strata` and `interval` (the method). Missing where there is no item, or one is not finite.
    """
    items = np.asarray(values, dtype=np.float64)
    found: dict[str, Any] = {**(details or {}), "per_item": items.tolist()}
    found |= {} if keys is None else {"items": _identity(keys, len(items))}
    found |= {} if strata is None else {"strata": list(strata)}
    if not len(items):
        return Estimate.missing("no items", unit=unit, better=better)
    if faulty := int((~np.isfinite(items)).sum()):
        return Estimate.missing(f"{faulty} of {len(items)} items are not finite", unit=unit, better=better)
    groups = by_stratum(items, strata)
    value = float(np.mean([group.mean() for group in groups]))
    low, high, method = interval_of_mean(
        groups, np.random.default_rng(derive(seed, "bootstrap")), shares=unit == "share"
    )
    found |= {} if low is None else {"interval": method}
    told: dict[str, Any] = {"unit": unit, "better": better, "details": found}
    return Estimate(value=value, low=low, high=high, n=len(items), reason="" if low is not None else method, **told)


def by_stratum(items: Floats, strata: Sequence[str] | None) -> list[Floats]:
    """Items of one stratum each."""
    names = np.array(["all"] * len(items) if strata is None else strata)
    return [items[names == name] for name in np.unique(names)]


def interval_of_mean(
    groups: list[Floats], generator: np.random.Generator, *, shares: bool
) -> tuple[float | None, float | None, str]:
    """Bounds of the mean of group means and the method; or None, None and why. shares: whether 0 and 1 are counts."""
    value = float(np.mean([group.mean() for group in groups]))
    if shares and all(np.isin(group, (0.0, 1.0)).all() for group in groups):
        if sum(map(len, groups)) == 1:
            return None, None, ONE_ITEM
        prior = 0.5 / len(groups)
        draws = [generator.beta(g.sum() + prior, len(g) - g.sum() + prior, RESAMPLES) for g in groups]
        low, high = np.quantile(np.mean(draws, axis=0), TAILS)
        return min(float(low), value), max(float(high), value), "Jeffreys"
    if min(map(len, groups)) == 1:
        return None, None, ONE_ITEM if len(groups) == 1 else "a stratum has one item: its spread is not known"
    spread = _error(np.array([group.var(ddof=1) for group in groups])[:, None], groups)[0]
    if spread <= 1e-12 * max(abs(value), 1e-300):
        return None, None, f"all {sum(map(len, groups))} values are the same"
    means, variances = np.stack([_resample(group, generator) for group in groups], axis=1)
    centre, errors = means.mean(axis=0), _error(variances, groups)
    if (errors > 0.01 * spread).all():
        t = np.quantile((centre - value) / errors, TAILS)
        return float(value - t[1] * spread), float(value - t[0] * spread), "bootstrap-t"
    low, high = np.quantile(centre, _widened(sum(map(len, groups)) - len(groups) + 1))
    return float(low), float(high), "percentile, widened"


def _error(variances: Floats, groups: list[Floats]) -> Floats:
    """Standard errors of a mean of group means, from variances G draws."""
    sizes = np.array([len(group) for group in groups])[:, None]
    return np.asarray(np.sqrt((variances / sizes).sum(axis=0)) / len(groups))


def _resample(group: Floats, generator: np.random.Generator) -> Floats:
    """Mean and unbiased variance of RESAMPLES resamples, 2 RESAMPLES."""
    drawn = []
    chunk = max(1, 64_000 // len(group))  # resamples at a time: half a megabyte, which a core's own cache holds
    for start in range(0, RESAMPLES, chunk):
        chosen = group[generator.integers(len(group), size=(min(chunk, RESAMPLES - start), len(group)))]
        drawn.append(np.stack([chosen.mean(axis=1), chosen.var(axis=1, ddof=1)]))
    return np.concatenate(drawn, axis=1)


def jackknife(
    statistic: Callable[..., float],
    *arrays: NDArray[Any],
    blocks: int = BLOCKS,
    keys: Sequence[str] | None = None,
    unit: str = "",
    better: Better = "",
    details: Mapping[str, Any] | None = None,
) -> Estimate:
    """A statistic of whole arrays of independent items, with a 95% interval from a block jackknife.

    Each array is dealt into `blocks` random blocks, the same in every run; the statistic is taken without block j of
    every array, for each j, and the interval is Student's t with blocks - 1 degrees of freedom about the statistic of
    everything (delete-m_j jackknife: Busing, Meijer & van der Leeden 1999). What it covers is the statistic's
    expectation at this n: a bias that depends on n stays.

    n is the first array's length; fewer items than blocks make as many blocks as items. Details hold `pseudo` (values),
    `sizes` (n over each block's size), `deal` and `items` (a hash of `keys`), by which blocks are compared in pairs.
    """
    lengths = [*map(len, arrays)]
    subsets = without_blocks(lengths, min(blocks, *lengths)) if min(lengths) else ()
    values: list[float] = []
    for kept in subsets:
        values.append(statistic(*(array[rows] for array, rows in zip(arrays, kept, strict=True))))
        if not np.isfinite(values[0]):
            break
    return of_blocks(values, lengths[0], keys=keys, unit=unit, better=better, details=details)


def of_blocks(
    values: Sequence[float] | Floats,
    n: int,
    *,
    keys: Sequence[str] | None = None,
    unit: str = "",
    better: Better = "",
    details: Mapping[str, Any] | None = None,
    paired: bool = False,
) -> Estimate:
    """`jackknife` of a statistic that is known: of n items, and then without block after block of `deal`. paired: as
    `without_blocks`'s; then other blocks were left out, and it is not compared with one of the others in pairs."""
    found = dict(details or {})
    told: dict[str, Any] = {"n": n, "unit": unit, "better": better, "details": found}
    if keys is not None:
        found["items"] = _identity(keys, n)
    if not len(values):
        return Estimate.missing("no items", unit=unit, better=better)
    value, without = float(values[0]), np.asarray(values[1:], dtype=np.float64)
    if not np.isfinite(value):
        return Estimate.missing(f"the statistic of {n} items is not finite", unit=unit, better=better)
    if not len(without):
        return Estimate(value=value, reason=ONE_ITEM, **told)
    sizes = np.array([n / len(part) for part in deal(n, 0, len(without))])
    pseudo = sizes * value - (sizes - 1) * without
    found |= {"pseudo": pseudo.tolist(), "sizes": sizes.tolist(), "deal": DEAL_OF_PAIRS if paired else DEAL}
    found["interval"] = f"jackknife, {len(without)} blocks"
    if not np.isfinite(pseudo).all():
        return Estimate(value=value, reason="the statistic is not finite without some of the items", **told)
    reach = reach_of_blocks(pseudo, sizes)
    if reach <= 1e-12 * abs(value):
        return Estimate(value=value, reason=NO_SPREAD, **told)
    return Estimate(value=value, low=value - reach, high=value + reach, **told)


def without_blocks(lengths: Sequence[int], blocks: int, *, paired: bool = False) -> Iterator[tuple[Ids, ...]]:
    """Rows of arrays of these lengths: all, and then, with two blocks or more, without block after block of `deal`.
    paired: arrays of one length, whose items at a place belong together: they are dealt into the same block."""
    every = [np.arange(length) for length in lengths]
    yield tuple(every)
    numbers = [0] * len(lengths) if paired else range(len(lengths))
    dealt = [deal(length, number, blocks) for number, length in zip(numbers, lengths, strict=True) if blocks > 1]
    for parts in zip(*dealt, strict=True):
        yield tuple(np.delete(rows, part) for rows, part in zip(every, parts, strict=True))


def deal(length: int, number: int, blocks: int) -> list[Ids]:
    """The blocks that a jackknife deals the items of its array of this number into."""
    order = np.random.default_rng(derive(DEAL, "jackknife", number, length)).permutation(length)
    return np.array_split(order, blocks)


def reach_of_blocks(pseudo: Floats, sizes: Floats) -> float:
    """Half a 95% interval from a jackknife's pseudo-values."""
    variance = ((pseudo - np.average(pseudo, weights=1 / sizes)) ** 2 / (sizes - 1)).mean()
    return float(stdtrit(len(pseudo) - 1, TAILS[1]) * np.sqrt(variance))


def interval_of_items(estimate: Estimate) -> Estimate:
    """With the interval that its details give, `per_item` (and `strata`) or `pseudo`; without either as it is."""
    found = estimate.details
    if "per_item" in found:
        groups = by_stratum(np.array(found["per_item"]), found.get("strata"))
        generator = np.random.default_rng(derive(0, "bootstrap"))
        low, high, reason = interval_of_mean(groups, generator, shares=estimate.unit == "share")
        return replace(estimate, low=low, high=high, reason="" if low is not None else reason)
    if "pseudo" in found and estimate.value is not None:
        reach = reach_of_blocks(np.array(found["pseudo"]), np.array(found["sizes"]))
        if reach <= 1e-12 * abs(estimate.value):
            return replace(estimate, low=None, high=None, reason=NO_SPREAD)
        return replace(estimate, low=estimate.value - reach, high=estimate.value + reach, reason="")
    return estimate


def _identity(keys: Sequence[str], n: int) -> str:
    if len(keys) != n:
        raise ValueError(f"{len(keys)} keys for {n} items")
    return hash_bytes(*keys)
