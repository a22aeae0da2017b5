from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Bootstrap, on_rows


def interval(values, bootstrap):
    """The mean of one value per row, with its interval."""
    return interval_of(statistics.mean(values), bootstrap)


def interval_of(measure, bootstrap):
    """A measure with its interval."""
    return bootstrap.estimates({"it": measure})["it"]


def test_the_interval_covers_the_truth_as_often_as_its_confidence():
    """The 90 % intervals of 200 samples with a known mean contain it in about nine of ten cases."""
    generator = np.random.default_rng(0)
    bootstrap = Bootstrap(200, 300, 0.9, seed=0)
    intervals = [interval(generator.random(200) < 0.7, bootstrap) for _ in range(200)]
    assert 0.84 <= np.mean([estimate.low <= 0.7 <= estimate.high for estimate in intervals]) <= 0.96


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.floats(0.5, 0.99))
def test_the_value_lies_in_its_interval(correct, confidence):
    """Low ≤ high, both possible values of the mean, and the value is the plain mean."""
    estimate = interval(correct, Bootstrap(len(correct), 200, confidence, seed=1))
    assert 0.0 <= estimate.low <= estimate.high <= 1.0
    assert estimate.value == pytest.approx(sum(correct) / len(correct))


def test_more_confidence_is_a_wider_interval():
    """The 99 % interval contains the 80 % interval."""
    values = np.arange(50) % 2
    wide, narrow = (interval(values, Bootstrap(50, 500, confidence, seed=0)) for confidence in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval():
    """Intervals are outputs: they follow from the seed."""
    values = np.random.default_rng(0).random(40)
    assert interval(values, Bootstrap(40, 200, 0.9, seed=3)) == interval(values, Bootstrap(40, 200, 0.9, seed=3))
    assert interval(values, Bootstrap(40, 200, 0.9, seed=3)) != interval(values, Bootstrap(40, 200, 0.9, seed=4))


def test_resamples_in_parts_equal_resamples_at_once(monkeypatch):
    """The number of weights in memory changes no result."""
    values = np.random.default_rng(0).random(30)
    whole = interval(values, Bootstrap(30, 200, 0.9, seed=0))
    monkeypatch.setattr("pretune.evaluation.metrics.bootstrap.CELLS", 70)
    parts = interval(values, Bootstrap(30, 200, 0.9, seed=0))
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high))


def test_models_are_compared_row_by_row():
    """Models that differ in few rows differ significantly, even if their own intervals overlap."""
    generator = np.random.default_rng(0)
    worse = generator.random(300) < 0.6
    better = worse.copy()
    better[np.flatnonzero(~worse)[:15]] = True
    bootstrap = Bootstrap(300, 1000, 0.95, seed=0)
    gain = bootstrap.difference(statistics.mean(better), statistics.mean(worse))
    assert gain.value == pytest.approx(0.05)
    assert gain.low > 0
    assert gain.p < 0.01
    assert interval(better, bootstrap).low < interval(worse, bootstrap).high


def test_a_model_has_no_gain_over_itself():
    """The same predictions: a gain of 0 with a p-value of 1."""
    measure, bootstrap = statistics.mean([0, 1, 1, 0]), Bootstrap(4, 100, 0.9, 0)
    gain = bootstrap.difference(measure, measure)
    assert (gain.value, gain.low, gain.high, gain.p) == (0, 0, 0, 1)


def test_equal_models_seldom_differ_significantly():
    """Where neither is better, p falls below 0.1 in about one of ten comparisons."""
    generator = np.random.default_rng(0)
    bootstrap = Bootstrap(150, 300, 0.9, seed=0)
    pairs = [(statistics.mean(generator.random(150)), statistics.mean(generator.random(150))) for _ in range(150)]
    assert 0.04 <= np.mean([bootstrap.difference(*pair).p < 0.1 for pair in pairs]) <= 0.17


def test_a_lower_loss_is_a_positive_gain():
    """The sign of the value and of the interval is turned."""
    generator = np.random.default_rng(0)
    small, large = generator.random(80), generator.random(80) + 1
    gain = Bootstrap(80, 200, 0.9, seed=0).difference(statistics.mean(small), statistics.mean(large), sign=-1)
    assert 0 < gain.low <= gain.value <= gain.high


def test_a_metric_without_a_value_is_left_out():
    """ROC AUC of one class is not defined: it is not in the result; other metrics are."""
    measures = {
        "roc": statistics.roc_auc(np.ones(9, dtype=bool), np.arange(9.0)),
        "mean": statistics.mean(np.arange(9)),
    }
    assert set(Bootstrap(9, 100, 0.9, 0).estimates(measures)) == {"mean"}


def test_the_value_on_a_slice_is_that_of_its_rows():
    """Other rows do not count."""
    mask = np.array([True, True, False, False])
    estimate = interval_of(on_rows(statistics.mean([1, 3, 100, 100]), mask), Bootstrap(4, 200, 0.9, 0))
    assert estimate.value == 2
    assert 1 <= estimate.low <= estimate.high <= 3
