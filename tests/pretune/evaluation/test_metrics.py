from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.evaluation import metrics
from pretune.evaluation.metrics import Bootstrap


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Of 200 samples with a known mean, the 90 % interval holds it in about nine of ten."""
    generator = np.random.default_rng(0)
    bootstrap = Bootstrap(200, 300, 0.9, seed=0)
    covered = 0
    for _ in range(200):
        estimate = bootstrap.mean((generator.random(200) < 0.7).astype(np.float64))
        covered += estimate.low <= 0.7 <= estimate.high
    assert 0.84 <= covered / 200 <= 0.96


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.floats(0.5, 0.99))
def test_the_value_lies_in_its_interval(right, confidence):
    """Low ≤ high, both possible values of the mean, and the value is the plain mean."""
    estimate = Bootstrap(len(right), 200, confidence, seed=1).mean(np.array(right, dtype=np.float64))
    assert 0.0 <= estimate.low <= estimate.high <= 1.0
    assert estimate.value == pytest.approx(sum(right) / len(right))


def test_more_confidence_is_a_wider_interval():
    """99 % holds 80 %."""
    values = np.arange(50) % 2 * 1.0
    wide, narrow = (Bootstrap(50, 500, confidence, seed=0).mean(values) for confidence in (0.99, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_same_seed_gives_the_same_interval():
    """Intervals are outputs: they follow from the seed."""
    values = np.random.default_rng(0).random(40)
    assert Bootstrap(40, 200, 0.9, seed=3).mean(values) == Bootstrap(40, 200, 0.9, seed=3).mean(values)
    assert Bootstrap(40, 200, 0.9, seed=3).mean(values) != Bootstrap(40, 200, 0.9, seed=4).mean(values)


def test_the_gain_is_compared_row_by_row():
    """Models that differ in few rows differ surely, however wide their own intervals are."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 300)
    worse = np.where(generator.random(300) < 0.4, 1 - targets, targets)
    better = worse.copy()
    better[np.flatnonzero(worse != targets)[:15]] = targets[worse != targets][:15]
    bootstrap = Bootstrap(300, 1000, 0.95, seed=0)
    gain = metrics.gain(targets, better, worse, bootstrap)
    assert gain["value"] == pytest.approx(0.05)
    assert gain["low"] > 0
    own = [metrics.score(targets, answer, bootstrap)["accuracy"] for answer in (better, worse)]
    assert own[0]["low"] < own[1]["high"]


def test_a_model_has_no_gain_over_itself():
    """The same answers: nothing gained, for sure."""
    answers = np.array([0, 1, 1, 0])
    assert metrics.gain(1 - answers, answers, answers, Bootstrap(4, 100, 0.9, 0)) == {"value": 0, "low": 0, "high": 0}


def test_the_score_of_a_perfect_and_of_a_useless_model():
    """Accuracy and macro F1 are one, or none where no answer is right."""
    targets, bootstrap = np.array([0, 1, 2, 0]), Bootstrap(4, 100, 0.9, 0)
    right = metrics.score(targets, targets, bootstrap)
    wrong = metrics.score(targets, (targets + 1) % 3, bootstrap)
    assert right == {"accuracy": {"value": 1.0, "low": 1.0, "high": 1.0}, "macro_f1": 1.0}
    assert wrong == {"accuracy": {"value": 0.0, "low": 0.0, "high": 0.0}, "macro_f1": 0.0}


def test_the_majority_is_that_of_the_training_rows():
    """The commonest training label, for every test row."""
    assert metrics.majority(np.array([2, 0, 2, 1]), 3).tolist() == [2, 2, 2]
