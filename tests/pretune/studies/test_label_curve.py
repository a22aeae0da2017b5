from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.errors import DataError
from pretune.studies.label_curve import Point, equivalent, fit

NUMBERS = (50, 100, 200, 400, 800, 1600)


def points(*, a=0.1, b=2.0, c=0.5, noise=0.0, seeds=1, seed=0, numbers=NUMBERS):
    """Accuracies whose errors follow a + b n^-c, with relative noise."""
    generator = np.random.default_rng(seed)
    return [
        Point(n, number, 1 - (a + b * n**-c) * float(np.exp(noise * generator.normal())))
        for n in numbers
        for number in range(seeds)
    ]


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 0.3), st.floats(0.5, 3), st.floats(0.3, 1.5))
def test_runs_without_noise_give_the_planted_curve(a, b, c):
    """Whatever the curve, it is recovered: a, c, and the labels for what 1000 labels reach."""
    numbers = [20, *NUMBERS]
    curve = fit([Point(n, 0, a + b * n**-c) for n in numbers], higher_is_better=False, samples=2)
    assert (curve.a.value, curve.c.value) == pytest.approx((a, c), abs=1e-3)
    assert curve.labels_needed(a + b * 1000**-c).labels.value == pytest.approx(1000, rel=1e-3)


def test_noisy_runs_give_the_planted_curve_within_the_intervals():
    """Of 100 samples with three seeds, most 95 % intervals of a, c and the labels needed contain the truth."""
    curves = [fit(points(noise=0.03, seeds=3, seed=seed), higher_is_better=True, samples=300) for seed in range(100)]
    truths = {"a": 0.1, "c": 0.5}
    for name, truth in truths.items():
        intervals = [getattr(curve, name) for curve in curves]
        assert 0.85 <= np.mean([interval.low <= truth <= interval.high for interval in intervals]) <= 0.99
    needed = [curve.labels_needed(0.8).labels for curve in curves]  # 0.2 = 0.1 + 2 / sqrt(400)
    assert 0.82 <= np.mean([labels.low <= 400 <= labels.high for labels in needed]) <= 0.99


def test_runs_with_one_seed_take_their_noise_from_the_residuals():
    """Six runs, three coefficients: about four of five 95 % intervals of the metric at 400 labels hold the truth."""
    curves = [fit(points(noise=0.03, seed=seed), higher_is_better=True, samples=200) for seed in range(100)]
    intervals = [curve.predict(400) for curve in curves]
    covered = np.mean([interval.low <= 0.8 <= interval.high for interval in intervals])
    assert 0.76 <= covered <= 0.99


def test_a_target_between_the_numbers_tried_is_not_beyond():
    """Within the numbers tried: interpolated; more or fewer labels: flagged."""
    curve = fit(points(), higher_is_better=True, samples=5)
    flags = {n: curve.labels_needed(1 - (0.1 + 2 * n**-0.5)).beyond for n in (25, 50, 300, 1600, 6400)}
    assert flags == {25: True, 50: False, 300: False, 1600: False, 6400: True}
    assert curve.labels_needed(1 - (0.1 + 2 * 6400**-0.5)).labels.value == pytest.approx(6400, rel=1e-3)


def test_a_target_beyond_the_asymptote_needs_infinitely_many_labels():
    """Accuracy 0.95, where 0.9 is the limit: infinite and beyond, with an interval that is no NaN."""
    needed = fit(points(noise=0.02, seeds=3), higher_is_better=True).labels_needed(0.95)
    assert needed.labels.value == needed.labels.high == np.inf
    assert needed.beyond
    assert not np.isnan(needed.labels.low)


def test_a_target_near_the_asymptote_has_an_interval_without_end():
    """What the best guess reaches may be out of reach: the lower end is finite, the upper one infinite."""
    needed = fit(points(noise=0.05, seeds=3), higher_is_better=True).labels_needed(0.895)
    assert np.isfinite(needed.labels.low)
    assert needed.labels.high == np.inf


def test_a_metric_and_its_error_give_the_same_curve():
    """Accuracy, and 1 - accuracy as a loss, need the same labels."""
    runs = points(noise=0.02, seeds=3)
    losses = [Point(run.labels, run.seed, 1 - run.metric) for run in runs]
    accuracy, loss = fit(runs, higher_is_better=True), fit(losses, higher_is_better=False)
    high, low = accuracy.labels_needed(0.8).labels, loss.labels_needed(0.2).labels
    assert (high.value, high.low, high.high) == pytest.approx((low.value, low.low, low.high), rel=1e-6)
    assert accuracy.predict(400).value == pytest.approx(1 - loss.predict(400).value)
    assert accuracy.predict(400).low < accuracy.predict(400).value < accuracy.predict(400).high


def test_pretraining_is_worth_four_times_the_labels():
    """Planted: twice the b at c = 0.5 needs four times the labels, within the interval and only as far as tried."""
    pretrained = fit(points(b=2.0, noise=0.02, seeds=5), higher_is_better=True)
    scratch = fit(points(b=4.0, noise=0.02, seeds=5, seed=1), higher_is_better=True)
    needed = equivalent(pretrained, scratch, 200)
    assert needed.labels.low < 800 < needed.labels.high
    assert needed.labels.value == pytest.approx(800, rel=0.1)
    assert not needed.beyond
    assert equivalent(pretrained, scratch, 800).beyond  # 3200 were not tried
    assert equivalent(scratch, pretrained, 3200).beyond  # 800 were, but not 3200 from scratch
    assert equivalent(scratch, pretrained, 800).labels.value == pytest.approx(200, rel=0.1)


def test_no_number_of_labels_makes_up_for_a_worse_asymptote():
    """From scratch, the error stays above 0.3: infinite."""
    scratch = fit(points(a=0.3), higher_is_better=True, samples=5)
    assert equivalent(fit(points(), higher_is_better=True, samples=5), scratch, 400).labels.value == np.inf


def test_curves_of_different_metrics_are_not_compared():
    """An accuracy is no loss."""
    loss = fit([Point(n, 0, 1 / n) for n in NUMBERS], higher_is_better=False, samples=5)
    with pytest.raises(DataError, match="different metrics"):
        equivalent(fit(points(), higher_is_better=True, samples=5), loss, 100)


def test_labels_that_change_nothing_give_a_flat_curve():
    """Equal metrics: a is the error; any better target is out of reach, any worse one needs one label."""
    curve = fit([Point(n, seed, 0.75) for n in NUMBERS for seed in range(2)], higher_is_better=True, samples=5)
    assert (curve.a.value, curve.b.value) == (pytest.approx(0.25), 0)
    assert curve.labels_needed(0.8).labels.value == np.inf
    assert curve.labels_needed(0.7).labels.value == 1


@pytest.mark.parametrize("metric", [1.0, 0.0])
def test_perfect_and_hopeless_models_do_not_crash(metric):
    """Errors of exactly 0 and of exactly 1."""
    curve = fit([Point(n, seed, metric) for n in NUMBERS for seed in range(2)], higher_is_better=True, samples=5)
    assert curve.predict(100).value == pytest.approx(metric)


def test_three_numbers_with_one_seed_have_no_interval():
    """The curve passes through all points: nothing is known about the noise."""
    needed = fit(points(numbers=(50, 200, 800)), higher_is_better=True).labels_needed(0.8)
    assert needed.labels.value == pytest.approx(400, rel=1e-3)
    assert np.isnan([needed.labels.low, needed.labels.high]).all()


def test_wrong_runs_end_in_one_message_with_all_problems():
    """Too few numbers of labels, diverged runs, a metric outside its range, no labels."""
    with pytest.raises(DataError) as raised:
        fit([Point(10, 0, 0.5), Point(10, 1, np.nan), Point(20, 0, 1.5), Point(0, 0, 0.5)][:3], higher_is_better=True)
    assert len(raised.value.problems) == 3
    with pytest.raises(DataError, match="0 or more"):
        fit([Point(n, 0, -1.0) for n in NUMBERS], higher_is_better=False)
    with pytest.raises(DataError, match="labels must be 1 or more"):
        fit([Point(n, 0, 0.5) for n in (0, 1, 2)], higher_is_better=True)


def test_the_same_seed_gives_the_same_intervals():
    """Intervals are outputs: they follow from the runs and the seed."""
    runs = points(noise=0.03, seeds=2)
    assert fit(runs, higher_is_better=True, seed=1) == fit(runs, higher_is_better=True, seed=1)
    assert fit(runs, higher_is_better=True, seed=1) != fit(runs, higher_is_better=True, seed=2)
