"""Many looks: a p-value is the level at which an interval touches zero, and Holm's procedure is the closed test that it
is said to be."""

from __future__ import annotations

import math
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, stdtr, stdtrit
from scipy.stats import ttest_1samp

from metrics.differences import difference
from metrics.multiplicity import LEAST, by_chance, holm, standing
from metrics.replication import across_seeds, difference_over_seeds
from metrics.statistics import Estimate, jackknife, mean_estimate

CHANCES = st.lists(st.floats(1e-6, 1) | st.floats(0.005, 0.06), min_size=1, max_size=6)  # many about the levels
KEYS = [str(i) for i in range(64)]
SEEDS = st.lists(st.floats(-3, 3), min_size=2, max_size=6).filter(lambda values: np.std(values) > 1e-3)


def of(value: float, low: float | None, high: float | None, **details: object) -> Estimate:
    return Estimate(
        value=value, low=low, high=high, n=9, better="higher", reason="" if low is not None else "none", details=details
    )


@given(CHANCES)
def test_holm_rejects_what_every_set_of_hypotheses_with_it_rejects(chances: list[float]):
    every = range(len(chances))
    sets = list(chain.from_iterable(combinations(every, size) for size in range(1, len(chances) + 1)))
    rejected = [all(min(chances[j] for j in each) <= 0.05 / len(each) for each in sets if i in each) for i in every]
    assert holm(chances) == rejected


def test_holm_goes_on_to_a_laxer_level_with_each_that_it_rejects():
    assert holm([0.04, 0.001, 0.02]) == [True, True, True]  # Bonferroni's would stop at one of them
    assert holm([0.04, 0.001, 0.03]) == [False, True, False]


@given(SEEDS)
def test_of_seeds_alone_it_is_students(values: list[float]):
    pairs = [(of(value, None, None), of(0.0, None, None)) for value in values]
    told = difference_over_seeds([(a, b) for a, b in pairs]).estimate
    chance = by_chance(told)
    assert chance is not None and chance == pytest.approx(max(LEAST, ttest_1samp(values, 0).pvalue), rel=1e-4, abs=1e-9)


@given(st.floats(0.01, 10), st.floats(0.1, 3), st.sampled_from([1, -1]))
def test_of_one_seed_it_is_a_normal_deviates(gap: float, error: float, sign: int):
    reach = 1.959963984540054 * error
    chance = by_chance(of(sign * gap, sign * gap - reach, sign * gap + reach))
    assert chance == pytest.approx(max(LEAST, 2 * ndtr(-gap / error)), rel=1e-6)


@given(SEEDS, st.floats(0.05, 2))
def test_it_is_a_twentieth_just_where_the_interval_touches_zero(values: list[float], items: float):
    told = across_seeds(values)
    assert told.low is not None and told.high is not None and told.value is not None
    wide = math.hypot(told.value - told.low, items)
    for touching in (wide, -wide):
        moved = [v - told.value + touching for v in values]
        chance = by_chance(of(touching, touching - wide, touching + wide, per_seed=moved))
        assert chance == pytest.approx(0.05, rel=1e-4)
        nearer = by_chance(of(touching / 2, touching / 2 - wide, touching / 2 + wide, per_seed=moved))
        assert nearer is not None and nearer > 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_of_an_uneven_interval_the_side_that_faces_zero_counts(sign: int):
    low, high = sorted((sign * 0.2, sign * 9.0))
    assert by_chance(of(sign * 1.0, low, high)) == pytest.approx(2 * ndtr(-1.959963984540054 / 0.8), rel=1e-6)


def test_chance_has_no_part_in_what_has_no_interval_or_no_width():
    assert by_chance(of(1.0, None, None)) is None
    assert by_chance(of(1.0, 1.0, 1.0)) is None
    assert by_chance(Estimate.missing("none")) is None
    assert by_chance(Estimate.counted(1.0, unit="")) is None
    assert by_chance(of(1.0, 1.0 - 1e-9, 1.0 + 1e-9)) == LEAST
    assert by_chance(of(0.0, -1.0, 1.0)) == 1.0


def test_it_is_uniform_where_nothing_differs():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(150):
        a, b = (generator.normal(size=60) for _ in range(2))
        keys = [str(i) for i in range(60)]
        one, other = (mean_estimate(x, keys=keys, better="higher") for x in (a, b))
        found.append(by_chance(difference(one, other).estimate))
    below = np.mean([chance is not None and chance < 0.05 for chance in found])
    assert 0.01 < below < 0.1
    assert 0.4 < float(np.median([chance for chance in found if chance is not None])) < 0.6


def test_standing_keeps_what_chance_has_no_part_in_and_counts_what_is_not_told_apart():
    assert standing([None, 0.04, 0.9], [True, True, False]) == [True, False, False]
    assert standing([None, 0.02, 0.9], [True, True, False]) == [True, True, False]
    assert standing([None, 0.04], [True, True]) == [True, True]  # one look
    assert standing([None, 0.001], [False, False]) == [False, False]  # told apart by nobody, whatever its p-value
    assert standing([], []) == []


def test_a_jackknifes_tails_are_students():
    generator = np.random.default_rng(1)
    one, other = (
        jackknife(lambda x: float(x.mean()), generator.normal(size=64), keys=KEYS, better="lower") for _ in "ab"
    )
    told = difference(one, other).estimate
    assert told.details["freedom"] == 15 and told.value is not None and told.high is not None
    error = (told.high - told.value) / stdtrit(15, 0.975)
    assert by_chance(told) == pytest.approx(2 * stdtr(15, -abs(told.value) / error), rel=1e-6)


@given(st.floats(0.1, 5), st.integers(2, 5))
def test_means_over_other_seeds_are_no_stronger_evidence_than_their_seeds(gap: float, count: int):
    """Without a seed in common two means are compared as independent: with the tails of so few seeds."""
    values = [0.1 * (-1) ** i + 0.01 * i for i in range(count)]
    a, b = (across_seeds([v + shift for v in values], better="lower") for shift in (0.0, gap))
    told = difference(a, b).estimate
    assert told.details["freedom"] == count - 1 and told.high is not None and told.value is not None
    chance = by_chance(told)
    error = (told.high - told.value) / stdtrit(count - 1, 0.975)
    assert chance == pytest.approx(2 * stdtr(count - 1, -gap / error), rel=1e-5)
