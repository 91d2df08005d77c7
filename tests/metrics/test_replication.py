"""Means over seeds: an interval covers other seeds and other items, and what is judged is what two differ by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from metrics import statistics
from metrics.differences import difference
from metrics.replication import (
    AS_IF_SHARED,
    SEEDS_ALONE,
    SEEDS_AND_ITEMS,
    across_seeds,
    difference_over_seeds,
    mean_over_seeds,
    only_items,
)
from metrics.statistics import Estimate, jackknife, mean_estimate

Floats = NDArray[np.float64]


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def measured(items: Floats, *, keys: str = "item", unit: str = "") -> Estimate:
    return mean_estimate(items, keys=[f"{keys} {i}" for i in range(len(items))], unit=unit, better="higher")


def table(generator: np.random.Generator, seeds: float, items: float, rest: float, *, n: int, s: int = 3) -> Floats:
    """Numbers of s seeds and n items, s n, about zero: standard deviations of seeds, of items and of what is left."""
    rows, columns = generator.normal(0, seeds, (s, 1)), generator.normal(0, items, (1, n))
    return rows + columns + generator.normal(0, rest, (s, n))


def test_the_interval_over_seeds_alone_is_students() -> None:
    values = [0.1, 0.4, 0.3]
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert bounds(across_seeds(values, better="higher")) == pytest.approx(expected)
    one = across_seeds([0.5])
    assert one.value == 0.5 and one.low is None and "one seed" in one.reason
    assert across_seeds([]).value is None


@pytest.mark.parametrize(
    ("seeds", "items", "rest"), [(0.0, 1.0, 0.2), (0.1, 1.0, 0.5), (0.3, 1.0, 1.0), (0.5, 0.2, 0.2), (0.05, 0.0, 1.0)]
)
def test_it_covers_other_seeds_and_other_items(
    seeds: float, items: float, rest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    generator, trials, alone = np.random.default_rng(9), 400, 0
    covered = 0
    for _ in range(trials):
        drawn = table(generator, seeds, items, rest, n=40)
        low, high = bounds(mean_over_seeds([measured(row) for row in drawn]))
        covered += low <= 0 <= high
        low, high = bounds(across_seeds(drawn.mean(axis=1)))
        alone += low <= 0 <= high
    assert covered / trials > 0.93
    if items > 2 * seeds * math.sqrt(40 / 3):  # the seeds' interval alone knows nothing of the items
        assert alone / trials < 0.8


def test_it_is_seldom_much_too_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    generator, missed = np.random.default_rng(1), 0
    for _ in range(400):
        low, high = bounds(mean_over_seeds([measured(row) for row in table(generator, 0.2, 1.0, 0.1, n=40, s=8)]))
        missed += not low <= 0 <= high
    assert 0.015 < missed / 400 < 0.075


def test_the_reaches_of_seeds_and_items_add_in_squares() -> None:
    drawn = table(np.random.default_rng(2), 0.3, 1.0, 0.5, n=30)
    told = mean_over_seeds([measured(row) for row in drawn], details={"batch": 32})
    seeds, items = across_seeds(drawn.mean(axis=1)), measured(drawn.mean(axis=0))
    assert told.value == pytest.approx(drawn.mean()) and told.n == 3
    for mine, one, other in zip(bounds(told), bounds(seeds), bounds(items), strict=True):
        assert abs(mine - drawn.mean()) == pytest.approx(math.hypot(one - drawn.mean(), other - drawn.mean()))
    assert told.details["interval"] == SEEDS_AND_ITEMS and told.details["batch"] == 32
    assert told.details["per_seed"] == pytest.approx(drawn.mean(axis=1))


def test_blocks_of_a_jackknife_are_items_too() -> None:
    drawn = table(np.random.default_rng(3), 0.1, 1.0, 0.1, n=64)
    keys = [str(i) for i in range(64)]
    each = [jackknife(lambda x: float(x.mean()), row, keys=keys, better="lower") for row in drawn]
    whole = jackknife(lambda x: float(x.mean()), drawn.mean(axis=0), keys=keys, better="lower")
    low, _ = bounds(mean_over_seeds(each))
    expected = math.hypot(drawn.mean() - bounds(across_seeds(drawn.mean(axis=1)))[0], drawn.mean() - bounds(whole)[0])
    assert drawn.mean() - low == pytest.approx(expected)


def test_blocks_that_were_dealt_otherwise_are_no_items_to_average() -> None:
    """Records from before deals were told: within a seed the blocks are the same, across seeds nobody knows."""
    drawn = table(np.random.default_rng(3), 0.01, 1.0, 0.1, n=64)
    keys = [str(i) for i in range(64)]
    each = [jackknife(lambda x: float(x.mean()), row, keys=keys, better="lower") for row in drawn]
    old = [replace(one, details={n: v for n, v in one.details.items() if n != "deal"}) for one in each]
    shuffled = [replace(one, details={**one.details, "deal": seed}) for seed, one in enumerate(each)]
    assert mean_over_seeds(each).details["interval"] == SEEDS_AND_ITEMS
    for some in (old, shuffled):
        assert mean_over_seeds(some).details["interval"] == AS_IF_SHARED
    assert difference(old[0], old[1]).paired and not difference(shuffled[0], shuffled[1]).paired


def test_means_without_an_interval_fall_back_to_the_seeds_own() -> None:
    strata = ["a"] * 20 + ["b"] * 20 + ["c"]  # one item of a kind: its spread is known for successes only
    items = np.zeros((3, 41))
    for seed in range(3):
        items[seed, [seed, seed + 5, 20 + seed]] = 1.0
    keys = [str(i) for i in range(41)]
    each = [mean_estimate(row, keys=keys, strata=strata, unit="share", better="higher") for row in items]
    assert all(one.low is not None for one in each)
    told = mean_over_seeds(each)
    assert told.details["interval"] == AS_IF_SHARED
    assert bounds(told)[1] - bounds(told)[0] == pytest.approx(bounds(each[0])[1] - bounds(each[0])[0], rel=0.05)


def test_the_same_number_from_every_seed_is_no_certainty() -> None:
    none = Estimate(value=0.0, n=9, better="higher", reason="no run of four words is right")
    told = mean_over_seeds([none] * 3)
    assert told.value == 0.0 and told.low is None and "every seed" in told.reason
    better = Estimate(value=0.5, n=9, better="higher", reason="unknown")
    assert difference_over_seeds([(better, none)] * 3).word == "not told apart"
    constant = Estimate(value=2.0, n=3, better="lower", reason="all the same", details={"per_item": [2.0] * 3})
    assert bounds(mean_over_seeds([constant] * 3)) == (2.0, 2.0)
    for exact in (Estimate.counted(2.0, unit=""), Estimate.reading(2.0, unit="")):
        assert bounds(mean_over_seeds([exact] * 3)) == (2.0, 2.0)
    assert mean_over_seeds([]).value is None


def test_items_that_seeds_do_not_share_count_as_if_they_did() -> None:
    drawn = table(np.random.default_rng(4), 0.1, 1.0, 0.2, n=50)
    told = mean_over_seeds([measured(row, keys=f"seed {i}") for i, row in enumerate(drawn)])
    each = [bounds(measured(row))[1] - row.mean() for row in drawn]
    alone = bounds(across_seeds(drawn.mean(axis=1)))[1] - drawn.mean()
    assert bounds(told)[1] - drawn.mean() == pytest.approx(
        math.hypot(alone, math.sqrt(np.square(each).mean())), rel=0.1
    )


def test_what_has_no_interval_or_a_clock_gave_keeps_the_seeds() -> None:
    values = [1.0, 2.0, 4.0]
    counted = [Estimate.counted(value, unit="bytes", better="lower") for value in values]
    clocked = [Estimate(value=v, low=v - 1, high=v + 1, n=9, unit="s", better="lower") for v in values]
    for told in (mean_over_seeds(counted), mean_over_seeds(clocked, timed=True)):
        assert bounds(told) == pytest.approx(bounds(across_seeds(values))) and told.details["interval"] == SEEDS_ALONE
    between = difference_over_seeds([(one, clocked[0]) for one in clocked], timed=True)
    assert bounds(between.estimate) == pytest.approx(bounds(across_seeds([0.0, 1.0, 3.0])))
    with pytest.raises(ValueError, match=r"a number is missing \(nan\)"):
        mean_over_seeds([counted[0], Estimate.missing("nan")])


def test_a_difference_is_judged_item_by_item_and_seed_by_seed() -> None:
    generator = np.random.default_rng(5)
    hard = generator.normal(size=(1, 80)) + np.array([[0.0], [0.5], [1.0]])  # what both share
    first, second = (hard + 0.05 * generator.normal(size=(3, 80)) + shift for shift in (0.1, 0.0))
    told = difference_over_seeds([(measured(a), measured(b)) for a, b in zip(first, second, strict=True)])
    assert told.word == "better" and told.estimate.details["interval"] == SEEDS_AND_ITEMS
    back = difference_over_seeds([(measured(b), measured(a)) for a, b in zip(first, second, strict=True)])
    assert back.word == "worse" and back.estimate.value == pytest.approx(-(told.estimate.value or 0.0))
    lost = [(measured(a), measured(b, keys="other")) for a, b in zip(first, second, strict=True)]
    assert difference_over_seeds(lost).word == "not told apart"


def test_seeds_that_agree_tell_nothing_apart_where_items_do_not() -> None:
    """What seeds alone would call told apart: every seed has the same small lead, by a few captions of many."""
    generator = np.random.default_rng(6)
    gaps = generator.normal(0, 1, 200)
    gaps += 0.05 - gaps.mean()
    pairs = [(measured(gaps + 0.001 * seed), measured(np.zeros(200))) for seed in range(3)]
    assert bounds(across_seeds([a.value or 0.0 for a, _ in pairs]))[0] > 0
    assert difference_over_seeds(pairs).word == "not told apart" == difference(*pairs[0]).word


def test_shares_without_a_success_claim_no_certainty() -> None:
    told = mean_over_seeds([measured(np.zeros(60), unit="share") for _ in range(3)])
    assert told.value == 0 and 0.01 < bounds(told)[1] < 0.06


def test_what_is_exact_in_every_seed_stays_so() -> None:
    exact = Estimate(value=1.0, low=1.0, high=1.0, n=9, unit="share", details={"per_item": [1.0] * 9, "items": "x"})
    assert bounds(mean_over_seeds([exact] * 3)) == (1.0, 1.0)


def test_what_comparisons_need_is_kept_and_nothing_else() -> None:
    one = mean_estimate([1.0, 2.0], keys=["a", "b"], strata=["x", "x"], better="higher", details={"batch": 3, "w": [1]})
    kept = only_items(one)
    assert set(kept.details) == {"per_item", "strata", "items"} and kept.value == one.value
    assert difference(kept, one).paired


def test_reaches_of_items_that_seeds_do_not_share_count_by_their_squares() -> None:
    each = [Estimate(value=1.0, low=1 - reach, high=1 + 2 * reach, n=9, better="lower") for reach in (1.0, 3.0)]
    assert bounds(mean_over_seeds(each)) == pytest.approx((1 - math.sqrt(5), 1 + 2 * math.sqrt(5)))


def test_a_difference_over_seeds_tells_the_freedom_of_its_blocks() -> None:
    drawn = table(np.random.default_rng(3), 0.1, 1.0, 0.1, n=64)
    keys = [str(i) for i in range(64)]
    each = [jackknife(lambda x: float(x.mean()), row, keys=keys, better="lower") for row in drawn]
    told = difference_over_seeds([(each[0], each[1]), (each[1], each[2])])
    assert told.estimate.details["freedom"] == 15 and len(told.estimate.details["per_seed"]) == 2


def test_a_difference_of_other_items_is_as_if_they_were_shared() -> None:
    drawn = table(np.random.default_rng(7), 0.3, 1.0, 0.5, n=30)
    told = difference_over_seeds([(measured(row), measured(row - 1, keys="other")) for row in drawn])
    assert told.estimate.details["interval"] == AS_IF_SHARED


def test_one_exact_number_makes_no_others_certain() -> None:
    told = mean_over_seeds([Estimate.counted(2.0, unit=""), Estimate(value=2.0, n=9, reason="unknown")])
    assert told.value == 2.0 and told.low is None and "every seed" in told.reason
