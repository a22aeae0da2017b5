from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.objectives.predictions import Classes, Numbers
from pretune.objectives.predictions_io import StoredPredictions, dumps, loads
from pretune.studies.judge import Judge, estimate_of, pareto
from pretune.studies.results import SeedResult, TrialResult
from pretune.studies.settings import bounds

SAMPLES, CONFIDENCE = 300, 0.95


@pytest.fixture
def trial_of(tmp_path):
    """A function from predictions, one for each seed, to a complete trial; keys: of the rows."""

    def make(number, predicted, *, keys=None, values=None):
        seeds = []
        for seed, one in enumerate(predicted):
            file = tmp_path / f"{number}-{seed}.json"
            rows = keys or [str(row) for row in range(compute.count(one))]
            file.write_text(dumps(StoredPredictions(rows, {"finetuned": one})), encoding="utf-8")
            seeds.append(SeedResult(seed, values[seed] if values else 0.0, held_out=str(file)))
        return TrialResult(number, {"key": number}, "complete", seeds)

    return make


def plain(number, *values, state="complete"):
    """A trial without predictions; values: one for each seed."""
    return TrialResult(number, {"key": number}, state, [SeedResult(seed, value) for seed, value in enumerate(values)])


def judge(metric="accuracy", *, higher=True):
    """A judge with few samples."""
    return Judge(metric, higher, SAMPLES, CONFIDENCE)


def stored(predicted):
    """Predictions as they come back from a file: with fewer digits."""
    return loads(dumps(StoredPredictions(["row"] * compute.count(predicted), {"one": predicted}))).models["one"]


def right(share, rows=50, *, first=0):
    """Predictions of which a share is correct, the wrong ones from row `first` on."""
    wrong = np.roll(np.arange(rows) >= round(share * rows), first)
    probabilities = np.column_stack([wrong, ~wrong]).astype(np.float32)
    return Classes(["no", "yes"], np.ones(rows, dtype=np.int64), probabilities)


def test_the_interval_of_one_seed_is_that_of_the_bootstrap(trial_of, forms):
    """The same as the evaluation of the test rows gives for the same predictions."""
    for number, (name, form) in enumerate(forms.items()):
        metric, measure = next(iter(compute.metrics(stored(form())).items()))
        expected = Bootstrap(60, SAMPLES, CONFIDENCE, 0).estimates({metric: measure.measure})[metric]
        found = judge(metric).estimate(trial_of(number, [form()]))
        assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high)), (
            name
        )
        assert judge("headline").estimate(trial_of(number, [form()])) == found


def test_identical_predictions_do_not_differ(trial_of, forms):
    """A difference of 0, from 0 to 0, p = 1."""
    one, same = (trial_of(number, [forms["classes"](seed=seed) for seed in range(3)]) for number in (1, 2))
    difference = judge().difference(one, same)
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("higher", [True, False])
def test_a_positive_difference_is_always_better(higher, trial_of):
    """By accuracy, and by an error; the better one is significantly better on the same rows and seeds."""
    if higher:
        good, bad = ([right(share, 200, first=seed) for seed in range(3)] for share in (0.9, 0.6))
    else:
        rows = np.zeros((200, 1), dtype=np.float32)
        good, bad = ([Numbers(rows, rows + off + seed / 1000) for seed in range(3)] for off in (0.1, 0.5))
    one, other = trial_of(1, good), trial_of(2, bad)
    verdict = judge("accuracy" if higher else "mae", higher=higher)
    difference = verdict.difference(one, other)
    assert difference.value == pytest.approx(0.3 if higher else 0.4, abs=1e-6)
    assert 0 < difference.low < difference.value + 1e-9
    assert difference.p < 0.05
    back = verdict.difference(other, one)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-difference.value, -difference.high, -difference.low), abs=0.01
    )


def covered(seed_noise, row_noise, *, seeds=3, rows=80, simulations=300):
    """How often the interval, and the naive one of resampled rows only, contain the true mean of 0.

    The metric of a seed on a row is the sum of an effect of the seed, one of the row, and one of both.
    """
    generator = np.random.default_rng(0)
    hits = np.zeros(2)
    for _ in range(simulations):
        scores = (
            generator.normal(0, seed_noise, (seeds, 1))
            + generator.normal(0, row_noise, (1, rows))
            + generator.normal(0, 0.1, (seeds, rows))
        )
        weights = generator.multinomial(rows, np.full(rows, 1 / rows), SAMPLES) / rows
        values = np.column_stack([scores.mean(axis=1), scores @ weights.T])
        estimate = estimate_of(values, CONFIDENCE, 0)
        naive = np.quantile(values[:, 1:].mean(axis=0), [0.025, 0.975])
        hits += [estimate.low <= 0 <= estimate.high, naive[0] <= 0 <= naive[1]]
    return hits / simulations


@pytest.mark.parametrize(("seed_noise", "row_noise"), [(1.0, 0.1), (0.1, 0.1), (0.1, 1.0), (0.02, 1.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seed_noise, row_noise):
    """In about 95 %, whether three seeds or 80 rows vary more; where seeds vary, resampled rows alone miss it."""
    interval, naive = covered(seed_noise, row_noise)
    assert 0.915 <= interval <= 0.99
    if seed_noise >= row_noise:
        assert naive < 0.6


def test_p_values_are_small_no_more_often_than_they_say(trial_of):
    """Of 200 comparisons of two equal points with three seeds, at most 8 % are called significant at 5 %."""
    generator, significant = np.random.default_rng(1), 0
    fair = Judge("mae", higher=False, samples=100, confidence=CONFIDENCE)
    zeros = np.zeros((40, 1), dtype=np.float32)
    for number in range(0, 400, 2):
        one, other = (
            trial_of(
                number + side,
                [
                    Numbers(
                        zeros, (5 + generator.normal(0, 0.5) + generator.normal(0, 0.5, (40, 1))).astype(np.float32)
                    )
                    for _ in range(3)
                ],
            )
            for side in (0, 1)
        )
        significant += fair.difference(one, other).p < 0.05
    assert significant <= 16


def test_without_predictions_it_is_students_interval():
    """Of the mean over the seeds, and of differences between the same seeds."""
    values = [0.50, 0.54, 0.55, 0.61]
    found = judge().estimate(plain(1, *values))
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((0.55, low, high))
    difference = judge().difference(plain(1, 0.6, 0.7, 0.8), plain(2, 0.5, 0.55, 0.75))
    assert difference.value == pytest.approx(0.1)
    assert difference.p == pytest.approx(stats.ttest_1samp([0.1, 0.15, 0.05], 0).pvalue)


def test_one_seed_without_predictions_tells_nothing():
    """The interval and p are NaN; the value is there. Without a seed all is NaN."""
    found = judge().estimate(plain(1, 0.5))
    assert found.value == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(judge().difference(plain(1, 0.5), plain(2, 0.4)).p)
    assert math.isnan(judge().estimate(plain(1)).value)


def test_equal_gains_of_all_seeds_have_a_p_value():
    """No variance: p is 0 for a gain, 1 for none."""
    assert judge().difference(plain(1, 0.5, 0.5), plain(2, 0.5, 0.5)).p == 1
    assert judge().difference(plain(1, 0.75, 0.75), plain(2, 0.5, 0.5)).p == 0


def test_a_metric_of_the_curve_is_judged_by_seeds_although_there_are_predictions(trial_of):
    """The loss is none of the metrics of predictions."""
    trial = trial_of(1, [right(0.5), right(0.6)], values=[1.0, 3.0])
    found = judge("loss", higher=False).estimate(trial)
    assert (found.value, found.low) == (2.0, 0.0)


def test_different_rows_are_not_paired(trial_of):
    """The same predictions about other rows: the difference is 0, but not certainly."""
    one = trial_of(1, [right(0.5)], keys=[f"a{row}" for row in range(50)])
    other = trial_of(2, [right(0.5)], keys=[f"b{row}" for row in range(50)])
    difference = judge().difference(one, other)
    assert difference.value == 0
    assert difference.low < -0.05 < 0.05 < difference.high


def test_rows_without_a_metric_do_not_make_a_difference_significant(trial_of):
    """ROC AUC has no value in resamples of one class: they are left out of p as well."""
    targets = np.array([1] + [0] * 11)
    generator = np.random.default_rng(0)
    trials = []
    for number in (1, 2):
        yes = generator.random(12).astype(np.float32)
        trials.append(trial_of(number, [Classes(["no", "yes"], targets, np.column_stack([1 - yes, yes]))]))
    better, worse = sorted(trials, key=lambda trial: -judge("roc_auc").estimate(trial).value)
    difference = judge("roc_auc").difference(better, worse)
    assert math.isfinite(difference.low)
    assert difference.p > 0.01


def test_intervals_do_not_leave_the_range_of_a_metric(trial_of):
    """Accuracy of 1 in two seeds of three; a mean of two seeds near 1 without rows; a loss near 0."""
    found = judge().estimate(trial_of(1, [right(1.0), right(1.0), right(0.7)]))
    assert found.high == 1
    assert 0 < found.low < 0.9
    assert judge().estimate(plain(1, 0.99, 0.9)).high == 1
    assert judge("loss", higher=False).estimate(plain(1, 0.01, 0.5)).low == 0
    difference = judge().difference(plain(1, 0.99, 0.9), plain(2, 0.01, 0.8))
    assert (difference.low, difference.high) == (-1, 1)


UNLIMITED = {"margin", "closeness"}  # differences of log-probabilities, and of likenesses to two texts


def test_values_of_all_forms_are_in_the_range_of_their_metric(forms):
    """Each metric of predictions of every form, on resamples too; none without a known limit."""
    for form in forms.values():
        bootstrap = Bootstrap(60, 20, CONFIDENCE, 0)
        metrics = {name: metric.measure for name, metric in compute.metrics(form(seed=3)).items()}
        for name, values in bootstrap.values(metrics).items():
            low, high = bounds(name)
            assert (low, high) != (-math.inf, math.inf) or name in UNLIMITED, name
            assert ((values >= low - 1e-9) & (values <= high + 1e-9) | np.isnan(values)).all(), name


def test_the_best_comes_first_and_the_earlier_of_equals():
    """By the mean over the seeds; what is not complete or has no value is left out."""
    trials = [
        plain(0, 0.5), plain(1, 0.9, 0.5), plain(2, 0.7, 0.7), plain(3, 0.99, state="pruned"), plain(4, math.nan),
        plain(5, 0.99, state="running"),
    ]  # fmt: skip
    assert [trial.number for trial in judge().best(trials[::-1])] == [1, 2, 0]
    assert [trial.number for trial in judge(higher=False).best(trials[::-1])] == [0, 1, 2]


def test_the_front_holds_what_no_other_trial_is_better_than():
    """Accuracy against seconds: equal ones stay, worse ones go; the best in the first metric comes first."""
    values = {0: (0.9, 10), 1: (0.8, 5), 2: (0.8, 6), 3: (0.7, 5), 4: (0.95, 50), 5: (0.9, 10), 6: (0.1, 1)}
    assert pareto(values, [True, False]) == [4, 0, 5, 1, 6]
    assert pareto(values, [True, True]) == [4]
    assert pareto({}, [True, False]) == []


def test_what_is_judged_again_is_the_same(trial_of):
    """No state: the same trial and judge give the same figures."""
    trial = trial_of(1, [right(0.5), right(0.6)])
    assert judge().estimate(trial) == judge().estimate(trial)
    assert judge().named("macro_f1").estimate(trial) != judge().estimate(trial)
