"""Intervals that cover what they say they cover."""

from functools import partial

import numpy as np
import pytest

from metrics.statistics import Estimate, bootstrap, mean_estimate


def _mean(values, index):
    return float(values[index].mean())


def test_an_estimate_without_interval_or_reason_is_refused():
    with pytest.raises(ValueError, match="reason"):
        Estimate(value=1.0)
    assert Estimate.from_json(Estimate.counted(3, unit="").to_json()).value == 3


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_the_bootstrap_of_a_mean_covers_it(draw):
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        values = getattr(generator, draw)(size=100)
        low, high = bootstrap(partial(_mean, values), 100, seed=trial, resamples=400)
        assert low is not None and high is not None
        hits += low <= (0.0 if draw == "normal" else 1.0) <= high
    assert 0.91 <= hits / 400 <= 0.97  # a percentile interval of 100 skewed values is a little short


def test_one_item_has_no_interval_and_none_is_missing():
    one = mean_estimate(np.array([2.0]))
    assert one.value == 2.0 and one.low is None and one.reason
    assert mean_estimate(np.array([])).value is None
    assert mean_estimate(np.array([1.0, np.nan])).value is None


def test_the_interval_is_a_function_of_the_seed():
    values = np.arange(20.0)
    assert mean_estimate(values) == mean_estimate(values)
    assert mean_estimate(values, seed=1).low != mean_estimate(values, seed=2).low
