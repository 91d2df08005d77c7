"""Intervals that cover what they say they cover, and words that follow from them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from metrics import statistics
from metrics.differences import difference, samples_needed
from metrics.statistics import ONE_ITEM, Estimate, bootstrap, interval_of_items, jackknife, mean_estimate

TRIALS = 600
DRAWS = {  # what an item is like, and its mean
    "normal": (lambda g, n: g.normal(size=n), 0.0),
    "exponential": (lambda g, n: g.exponential(size=n), 1.0),
    "uniform": (lambda g, n: g.random(n), 0.5),
    "shares of three": (lambda g, n: g.binomial(3, 0.7, n) / 3, 0.7),
    "successes": (lambda g, n: g.binomial(1, 0.8, n).astype(float), 0.8),
}


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the resamples, for simulations."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


def bounds(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None, estimate.reason
    return estimate.low, estimate.high


def covers(estimate: Estimate, truth: float) -> bool:
    low, high = bounds(estimate)
    return low <= truth <= high


def test_an_estimate_without_interval_or_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="reason"):
        Estimate(value=1.0)
    assert Estimate.from_json(Estimate.counted(3, unit="").to_json()).value == 3


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("n", [25, 100])
def test_the_interval_of_a_mean_covers_it(kind: str, n: int, fewer: None) -> None:
    draw, truth = DRAWS[kind]
    generator = np.random.default_rng(1)
    trials = 1500  # its standard error is 0.6%, and the exponential's coverage is 93.7%
    unit = "share" if kind == "successes" else ""
    hits = sum(covers(mean_estimate(draw(generator, n), seed=trial, unit=unit), truth) for trial in range(trials))
    assert 0.93 <= hits / trials <= 0.975


@pytest.mark.parametrize("kind", ["successes", "exponential"])
def test_the_interval_of_a_mean_over_strata_covers_it(kind: str, fewer: None) -> None:
    generator, names = np.random.default_rng(2), ["a"] * 8 + ["b"] * 30 + ["c"] * 15
    hits, values = 0, np.zeros(53)
    for trial in range(TRIALS):
        if kind == "successes":
            values, truth = generator.binomial(1, np.repeat([0.9, 0.2, 0.6], [8, 30, 15])).astype(float), 1.7 / 3
        else:
            values, truth = generator.exponential(np.repeat([1.0, 5.0, 2.0], [8, 30, 15])), 8 / 3
        unit = "share" if kind == "successes" else ""
        hits += covers(mean_estimate(values, strata=names, seed=trial, unit=unit), truth)
    assert 0.905 <= hits / TRIALS <= 0.975


@pytest.mark.parametrize("rates", [(0.03,) * 6, (0.3, 0.05, 0.02, 0.0, 0.1, 0.01)])
def test_rare_successes_in_many_strata_miss_on_neither_side_more_than_they_may(rates: tuple[float, ...]) -> None:
    generator, counts, trials = np.random.default_rng(4), [29, 13, 10, 21, 16, 39], 600
    names, truth = [str(i) for i, count in enumerate(counts) for _ in range(count)], float(np.mean(rates))
    below = above = 0
    for trial in range(trials):
        values = generator.binomial(1, np.repeat(rates, counts)).astype(float)
        low, high = bounds(mean_estimate(values, strata=names, seed=trial, unit="share"))
        below, above = below + (high < truth), above + (low > truth)
    assert below / trials <= 0.05 and above / trials <= 0.05  # whole priors: up to 17% above


def ratio(sums: NDArray[np.float64], index: NDArray[np.int64]) -> float:
    over, under = sums[index].sum(axis=0)
    return float(over / under)


def test_the_bootstrap_of_a_ratio_covers_it() -> None:
    generator, hits, trials = np.random.default_rng(0), 0, 300
    for trial in range(trials):
        tokens = generator.integers(5, 50, 40)
        nats = tokens * generator.gamma(9, 1 / 3, 40)
        sums = np.stack([nats, tokens], axis=1)
        low, high = bootstrap(partial(ratio, sums), 40, seed=trial, resamples=300)
        assert low is not None and high is not None
        hits += low <= 3 <= high
    assert 0.92 <= hits / trials <= 0.98
    assert bootstrap(lambda i: 0.0, 1) == (None, None)


@pytest.mark.parametrize("n", [64, 100])
def test_the_jackknife_of_a_smooth_statistic_covers_it(n: int) -> None:
    generator, hits = np.random.default_rng(5), 0
    for _ in range(TRIALS):
        a, b = generator.normal(2, 1, n), generator.exponential(1, 2 * n)
        hits += covers(jackknife(lambda x, y: float(np.log(x.mean()) * y.mean()), a, b), np.log(2.0))
    assert 0.93 <= hits / TRIALS <= 0.995


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=40)
    told = jackknife(lambda x: float(x.mean()), values, blocks=40)
    low, high = bounds(told)
    assert told.value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 39) * stats.sem(values))
    assert np.mean(told.details["pseudo"]) == pytest.approx(values.mean())
    uneven = jackknife(lambda x: float(x.mean()), values[:37], keys=[str(i) for i in range(37)])
    assert len(uneven.details["pseudo"]) == 16 and "items" in uneven.details


def test_one_item_has_no_interval_and_none_is_missing() -> None:
    one = mean_estimate(np.array([2.0]))
    assert (one.value, one.low, one.reason) == (2.0, None, ONE_ITEM)
    assert mean_estimate([1.0]).low is None
    assert mean_estimate(np.array([])).value is None
    faulty = mean_estimate(np.array([1.0, np.nan]))
    assert faulty.value is None and faulty.reason == "1 of 2 items are not finite"
    alone = jackknife(lambda x: float(x.mean()), np.array([2.0]))
    assert (alone.value, alone.low, alone.reason) == (2.0, None, ONE_ITEM)
    assert jackknife(lambda x: 0.0, np.zeros(0)).value is None
    assert jackknife(lambda x: np.nan, np.zeros(9)).value is None
    thin = mean_estimate([0.2, 0.4, 0.5], strata=["a", "a", "b"])
    assert thin.value == pytest.approx(0.4) and thin.low is None and "stratum" in thin.reason


def test_values_without_spread_claim_no_certainty() -> None:
    same = mean_estimate(np.full(50, 0.3))
    assert same.low is None and same.reason == "all 50 values are the same"
    low, high = bounds(mean_estimate(np.ones(50), unit="share"))
    assert high == 1 and 0.93 < low < 0.97  # 50 successes of 50: Jeffreys
    assert mean_estimate(np.ones(50)).low is None and mean_estimate(np.zeros(50), unit="nats").low is None
    rare = np.zeros(60)
    rare[0] = 0.5
    assert mean_estimate(rare).details["interval"] == "percentile, widened"
    low, high = bounds(mean_estimate(rare))
    assert low <= rare.mean() <= high


def test_the_interval_is_a_function_of_the_seed() -> None:
    values = np.arange(20.0)
    assert mean_estimate(values) == mean_estimate(values)
    assert mean_estimate(values, seed=1).low != mean_estimate(values, seed=2).low
    assert jackknife(np.median, values) == jackknife(np.median, values)
    assert bootstrap(lambda i: float(values[i].mean()), 20) == bootstrap(lambda i: float(values[i].mean()), 20)


def test_a_mean_over_strata_is_unweighted() -> None:
    told = mean_estimate([1.0, 1.0, 1.0, 0.0], strata=["a", "a", "a", "b"])
    assert told.value == 0.5 and told.details["strata"] == ["a", "a", "a", "b"]


def test_pairing_tells_apart_what_independent_intervals_cant() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(size=80)
    keys = [f"item {i}" for i in range(80)]
    a, b = (mean_estimate(hard + generator.normal(shift, 0.1, 80), keys=keys, better="higher") for shift in (0.1, 0.0))
    told = difference(a, b)
    assert told.paired and told.word == "better" and difference(b, a).word == "worse"
    assert told.estimate.value == pytest.approx(-(difference(b, a).estimate.value or 0))
    strange = mean_estimate(b.details["per_item"], keys=[f"other {i}" for i in range(80)], better="higher")
    apart = difference(a, strange)
    assert not apart.paired and apart.word == "not told apart"
    assert apart.needed is not None and apart.needed > 80 > (told.needed or 0)
    assert json.dumps(asdict(told))


@pytest.mark.parametrize(("better", "word"), [("lower", "worse"), ("higher", "better")])
def test_the_word_follows_the_direction(better: statistics.Better, word: str) -> None:
    high, low = (Estimate(value=v, low=v - 0.1, high=v + 0.1, n=10, unit="s", better=better) for v in (2.0, 1.0))
    told = difference(high, low)
    assert told.word == word and bounds(told.estimate) == pytest.approx((1 - 0.1 * 2**0.5, 1 + 0.1 * 2**0.5))
    assert difference(high, high).word == "not told apart" and difference(high, high).needed is None


def test_exact_counts_are_told_apart_by_their_sign() -> None:
    a, b = (Estimate.counted(v, unit="parameters", better="lower") for v in (10, 11))
    assert difference(a, b).word == "better" and difference(b, a).word == "worse"
    assert difference(a, a).word == "not told apart"


def test_a_number_that_other_items_would_give_too_has_no_width_in_a_difference() -> None:
    drawn = mean_estimate([12.0, 24.0, 12.0, 24.0, 12.0], keys=list("abcde"), better="lower", unit="FLOP")
    always = mean_estimate([12.0] * 5, keys=list("abcde"), better="lower", unit="FLOP")
    counted = Estimate.counted(12.0, better="lower", unit="FLOP")
    own = (drawn.high or 0) - (drawn.low or 0)
    for other in (always, counted):
        found = difference(drawn, other)
        assert found.estimate.low is not None and found.estimate.high is not None
        assert found.estimate.high - found.estimate.low == pytest.approx(own)
    twice = mean_estimate([24.0] * 5, keys=list("abcde"), better="lower", unit="FLOP")
    assert difference(twice, always).word == "worse" and difference(twice, counted).word == "worse"
    assert difference(always, counted).word == "not told apart"


def test_what_has_no_interval_is_never_told_apart() -> None:
    one = mean_estimate([3.0], better="higher")
    many = mean_estimate(np.arange(9.0), better="higher")
    assert difference(one, many).word == "not told apart" and difference(one, many).estimate.reason == ONE_ITEM
    gone = Estimate.missing("no pictures", better="higher")
    assert difference(many, gone).estimate.value is None and difference(many, gone).estimate.reason == "no pictures"
    same = mean_estimate([0.5, 0.7], keys=["a", "b"], better="higher")
    assert difference(same, same).word == "not told apart" and "the same" in difference(same, same).estimate.reason


@pytest.mark.parametrize("field", ["unit", "better"])
def test_numbers_of_different_kinds_are_not_compared(field: str) -> None:
    first = mean_estimate([1.0, 2.0], unit="s", better="lower")
    other = {"unit": "ms", "better": "higher"}[field]
    with pytest.raises(ValueError, match="can't compare"):
        difference(first, Estimate.from_json({**first.to_json(), field: other}))
    with pytest.raises(ValueError, match="can't compare"):
        difference(mean_estimate([1.0]), mean_estimate([1.0]))


def test_differences_are_told_apart_as_often_as_they_should(fewer: None) -> None:
    generator, trials = np.random.default_rng(4), 400
    words = {0.0: 0, 0.28: 0}  # the second has power 0.8 at n = 100: (1.96 + 0.84) / sqrt(100)
    for gap in words:
        for trial in range(trials):
            base = generator.normal(size=100)
            pair = (base + generator.normal(gap, 1, 100), base)
            a, b = (mean_estimate(v, keys=[str(i) for i in range(100)], better="higher") for v in pair)
            words[gap] += difference(a, b, seed=trial).word != "not told apart"
    assert 0.02 <= words[0.0] / trials <= 0.08
    assert 0.73 <= words[0.28] / trials <= 0.87


@pytest.mark.parametrize("shares", [(0.9, 0.5), (0.98, 0.96), (0.5, 0.5)])
@pytest.mark.parametrize("strata", [1, 4])
def test_paired_successes_are_covered_and_a_few_discordant_ones_tell_nothing(
    shares: tuple[float, float], strata: int
) -> None:
    generator, trials, n = np.random.default_rng(6), 500, 80
    names, hits = [str(i % strata) for i in range(n)], 0
    keys = [str(i) for i in range(n)]
    for _ in range(trials):
        luck = generator.random(n)  # partly shared: the same prompts are hard for both
        other = np.where(generator.random(n) < 0.5, luck, generator.random(n))
        a, b = (np.asarray(v < share, dtype=float) for v, share in zip((luck, other), shares, strict=True))
        told = {"strata": names, "keys": keys, "unit": "share", "better": "higher"}
        first, second = (mean_estimate(v, **told) for v in (a, b))  # type: ignore[arg-type]
        hits += covers(difference(first, second).estimate, shares[0] - shares[1])
    # Successes that come almost always differ on one or two of 80 items: the interval is then wider than it need be.
    assert 0.93 <= hits / trials <= (0.999 if shares == (0.98, 0.96) else 0.99)


@pytest.mark.parametrize("wins", range(9))
def test_wins_without_losses_are_told_apart_from_six_on(wins: int) -> None:
    keys = [str(i) for i in range(100)]
    a, b = (
        mean_estimate((np.arange(100) < right).astype(float), keys=keys, unit="share", better="higher")
        for right in (40 + wins, 40)
    )
    exact = stats.binomtest(wins, wins).pvalue if wins else 1.0  # McNemar's
    assert (difference(a, b).word == "better") == (exact < 0.05)
    assert (difference(b, a).word == "worse") == (exact < 0.05)


def test_the_samples_needed_give_the_power_they_promise() -> None:
    width = 2 * stats.norm.ppf(0.975) / np.sqrt(50)  # standard deviation 1, n = 50
    n = samples_needed(0.2, width, 50)
    assert n is not None
    power = stats.norm.sf(stats.norm.ppf(0.975) - 0.2 * np.sqrt(n))
    assert power == pytest.approx(0.8, abs=0.005)
    assert samples_needed(0, width, 50) is None and samples_needed(1e-200, width, 50) is None


@pytest.mark.parametrize("n", [8, 16])
def test_a_bootstrap_of_few_items_is_as_wide_as_students(n: int) -> None:
    values = stats.norm.ppf((np.arange(n) + 0.5) / n)
    low, high = bootstrap(lambda i: float(values[i].mean()), n, resamples=20_000)
    assert low is not None and high is not None
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, n - 1) * stats.sem(values), rel=0.04)


def test_each_stratum_takes_a_mean_from_the_items_that_widen_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three items each of two strata are as wide as five items: the ends are the least and the most that a resample can
    be, which one in 729 is: the tail is 0.7 in 729. As of six items it would be 1.8, among the next three."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200_000)
    told = mean_estimate([0.0, 1.0, 2.3, 0.0, 0.7, 1.9], strata=["a"] * 3 + ["b"] * 3)
    assert told.details["interval"] == "percentile, widened"
    assert bounds(told) == pytest.approx((0.0, (2.3 + 1.9) / 2))


def test_the_variances_of_resamples_are_unbiased() -> None:
    group = np.array([0.0, 1.0, 5.0])
    means, variances = statistics._resample(group, np.random.default_rng(0))
    assert means.mean() == pytest.approx(group.mean(), rel=0.05)
    assert variances.mean() == pytest.approx(group.var(), rel=0.05)


def test_uneven_blocks_count_by_their_sizes() -> None:
    told = jackknife(lambda x: float(x.var()), np.random.default_rng(3).exponential(size=21))  # of one or two items
    pseudo, sizes = np.array(told.details["pseudo"]), np.array(told.details["sizes"])
    assert sorted(21 / sizes) == [1] * 11 + [2] * 5
    variance = ((pseudo - (pseudo / sizes).sum()) ** 2 / (sizes - 1)).mean()
    low, high = bounds(told)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 15) * variance**0.5)


def test_arrays_of_the_same_length_are_dealt_each_on_its_own() -> None:
    seen: list[bool] = []

    def statistic(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
        seen.append(set(a.tolist()) == set(b.tolist()))
        return 0.0

    jackknife(statistic, np.arange(64), np.arange(64))
    assert seen == [True] + [False] * 16


def test_a_difference_takes_each_interval_by_the_side_that_faces_it() -> None:
    a = Estimate(value=2.0, low=1.5, high=6.0, n=9, better="higher")
    b = Estimate(value=0.0, low=-3.0, high=0.25, n=4, better="higher")
    assert bounds(difference(a, b).estimate) == pytest.approx((2 - np.hypot(0.5, 0.25), 2 + np.hypot(4.0, 3.0)))
    assert difference(a, b).estimate.n == difference(b, a).estimate.n == 4  # the smaller says what was seen


def test_the_fewest_degrees_of_freedom_are_told() -> None:
    few = Estimate(value=0.0, low=-1.0, high=1.0, better="lower", details={"pseudo": [0.0] * 5})
    many = Estimate(value=0.0, low=-1.0, high=1.0, better="lower", details={"pseudo": [0.0] * 16})
    assert difference(few, many).estimate.details == difference(many, few).estimate.details == {"freedom": 4}


def test_paired_successes_have_bonett_and_prices_interval() -> None:
    keys = [str(i) for i in range(10)]
    a, b = (mean_estimate((np.arange(10) < n).astype(float), keys=keys, unit="share", better="higher") for n in (8, 3))
    up, down = (5 + 1) / 12, (0 + 1) / 12
    reach = stats.norm.ppf(0.975) * ((up + down - (up - down) ** 2) / 12) ** 0.5
    assert bounds(difference(a, b).estimate) == pytest.approx((up - down - reach, up - down + reach))


def test_items_of_other_strata_are_not_compared_one_by_one() -> None:
    values, keys = np.random.default_rng(0).normal(size=12), [str(i) for i in range(12)]
    one, other = (mean_estimate(values, strata=s, keys=keys, better="higher") for s in (["a", "b"] * 6, ["a"] * 12))
    assert difference(one, one).paired and not difference(one, other).paired


@pytest.mark.parametrize("unit", ["share", ""])
def test_an_intervals_items_give_it_again(unit: str) -> None:
    told = mean_estimate((np.arange(30) % 10 > 0).astype(float), unit=unit, strata=["a", "b", "b"] * 10)
    assert bounds(interval_of_items(told)) == bounds(told)
