from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad

from pretune.errors import DataError
from pretune.studies import law_fit
from pretune.studies.scaling import Run, fit, held_out

SIZES = (1e6, 4e6, 1.6e7, 6.4e7)
TOKENS = (1e7, 1e8, 1e9)
TRUTH = {"E": 1.7, "A": 400.0, "alpha": 0.34, "B": 410.0, "beta": 0.28}  # close to Hoffmann et al. 2022


def law(parameters, tokens):
    """The planted law."""
    return TRUTH["E"] + TRUTH["A"] / parameters ** TRUTH["alpha"] + TRUTH["B"] / tokens ** TRUTH["beta"]


def runs(noise=0.0, seeds=1, sizes=SIZES, tokens=TOKENS, seed=0):
    """Runs that follow the planted law, with log-normal noise."""
    generator = np.random.default_rng(seed)
    return [
        Run(n, d, law(n, d) * float(np.exp(noise * generator.normal())), number)
        for n in sizes
        for d in tokens
        for number in range(seeds)
    ]


def covers(estimate, truth):
    """Whether the interval contains the truth."""
    return estimate.low <= truth <= estimate.high


def test_runs_without_noise_give_the_planted_law_exactly():
    """All five coefficients are recovered, to five digits, and so is a loss far outside."""
    fitted = fit(runs(), samples=5)
    assert {name: getattr(fitted, name).value for name in TRUTH} == pytest.approx(TRUTH, rel=1e-5)
    assert fitted.predict(1e9, 1e10) == pytest.approx(law(1e9, 1e10), rel=1e-5)
    assert fitted.data_varies


def test_a_law_of_another_scale_is_recovered_as_well():
    """Neither the unit of the loss nor the sizes are special: small losses, tiny models."""
    points = [Run(n, d, 0.02 + 0.5 * n**-0.7 + 3 * d**-0.9, 0) for n in (10, 30, 100, 300) for d in (50, 200, 1000)]
    fitted = fit(points, samples=2)
    found = [getattr(fitted, name).value for name in TRUTH]
    assert found == pytest.approx([0.02, 0.5, 0.7, 3, 0.9], rel=1e-3)


def test_noisy_runs_give_the_planted_law_within_the_intervals():
    """Of ten samples, nearly all 95 % intervals of E, alpha and beta contain the truth, and few points equal it."""
    laws = [fit(runs(noise=0.01, seeds=3, seed=seed), samples=60) for seed in range(10)]
    covered = [covers(getattr(fitted, name), TRUTH[name]) for fitted in laws for name in ("E", "alpha", "beta")]
    assert np.mean(covered) >= 0.8
    assert all(0.02 < fitted.beta.high - fitted.beta.low < 0.2 for fitted in laws)  # neither certain nor useless


def test_more_noise_makes_wider_intervals():
    """The interval of a prediction grows with the noise between seeds."""
    narrow, wide = (fit(runs(noise, seeds=3), samples=60).predict_with_interval(1e9, 1e9) for noise in (0.002, 0.02))
    assert 0 < narrow.high - narrow.low < (wide.high - wide.low) / 3


def test_an_interval_for_new_runs_is_wider_than_that_of_the_law():
    """A single new run adds its own noise; the mean of many adds little."""
    fitted = fit(runs(noise=0.01, seeds=5), samples=200)
    itself, one, many = (fitted.predict_with_interval(6.4e7, 1e9, number) for number in (0, 1, 1000))
    assert one.high - one.low > 1.3 * (itself.high - itself.low)
    assert many.high - many.low == pytest.approx(itself.high - itself.low, rel=0.1)
    assert itself.value == one.value == fitted.predict(6.4e7, 1e9)


def test_the_fit_resists_an_outlier():
    """One run of 36 with twice its loss moves no coefficient by more than 1 % (least squares would)."""
    points = runs(seeds=3)
    points[4] = Run(points[4].parameters, points[4].tokens, 2 * points[4].loss, 1)
    fitted = fit(points, samples=1)
    assert {name: getattr(fitted, name).value for name in TRUTH} == pytest.approx(TRUTH, rel=0.01)


def test_equal_data_give_a_law_of_size_alone_which_says_so():
    """B and beta are None; E holds what the data add; other numbers of tokens are refused, with the next step."""
    fitted = fit(runs(tokens=(1e8,)), samples=5)
    assert not fitted.data_varies
    assert fitted.B is None
    assert fitted.beta is None
    assert fitted.E.value == pytest.approx(TRUTH["E"] + TRUTH["B"] / 1e8 ** TRUTH["beta"], rel=1e-4)
    assert fitted.predict(1e9, 1e8) == pytest.approx(law(1e9, 1e8), rel=1e-4)
    assert any("B and beta" in note for note in fitted.notes)
    with pytest.raises(DataError, match="says nothing about 1e\\+09") as raised:
        fitted.predict(1e9, 1e9)
    assert "equal compute" in raised.value.next_step


def test_notes_say_what_the_runs_cannot_determine():
    """Two numbers of tokens, tokens in proportion to the size; a full grid with seeds has no notes."""
    proportional = [Run(n, 20 * n, law(n, 20 * n), seed) for n in SIZES for seed in range(2)]
    assert any("follow the size" in note for note in fit(proportional, samples=1).notes)
    assert any("two numbers of tokens" in note for note in fit(runs(tokens=TOKENS[:2]), samples=1).notes)
    assert fit(runs(noise=0.01, seeds=2), samples=1).notes == ()


def test_three_sizes_with_one_seed_have_no_intervals():
    """The law passes through all points: nothing is known about the noise, so intervals are NaN, not of width 0."""
    fitted = fit(runs(sizes=SIZES[:3], tokens=(1e8,)), samples=5)
    assert np.isnan([fitted.alpha.low, fitted.alpha.high]).all()
    assert np.isnan(fitted.predict_with_interval(1e8, 1e8, runs=1).low)
    assert any("no intervals" in note for note in fitted.notes)


@pytest.mark.parametrize("tokens", [TOKENS, (1e8,)])
def test_equal_losses_give_a_flat_law(tokens):
    """Nothing depends on size or data: E is the loss, A is 0, every prediction is E."""
    fitted = fit([Run(n, d, 2.5, seed) for n in SIZES for d in tokens for seed in range(2)], samples=5)
    assert (fitted.E.value, fitted.A.value, fitted.alpha.value) == (2.5, 0, 0)
    assert fitted.predict_with_interval(1e9, 1e8, runs=2).as_dict() == {"value": 2.5, "low": 2.5, "high": 2.5}


def test_larger_models_that_are_worse_give_a_law_without_effect_of_size():
    """A law cannot rise: its prediction for the next size lies among the measured losses, without a crash."""
    fitted = fit([Run(n, 1e8, 2 + 0.1 * number, 0) for number, n in enumerate(SIZES)], samples=5)
    assert 2.0 <= fitted.predict(1e9, 1e8) <= 2.3
    assert fitted.predict(1e9, 1e8) == pytest.approx(fitted.predict(1e6, 1e8), rel=1e-3)


def test_the_largest_size_is_predicted_without_having_seen_it():
    """Planted law without noise: the prediction at each number of tokens is right."""
    exact = held_out(runs(), samples=5)
    assert exact.parameters == max(SIZES)
    assert [check.tokens for check in exact.checks] == list(TOKENS)
    assert [check.relative_error for check in exact.checks] == pytest.approx([0, 0, 0], abs=1e-4)
    assert exact.inside


def test_prediction_intervals_contain_the_largest_size_as_often_as_they_say():
    """Of 36 predictions from noisy runs at 95 %, 31 at least are right, by intervals a few per cent wide."""
    held = [held_out(runs(noise=0.005, seeds=3, seed=seed), samples=60) for seed in range(12)]
    checks = [check for one in held for check in one.checks]
    assert {check.runs for check in checks} == {3}
    assert sum(check.inside for check in checks) >= 31
    assert np.mean([check.predicted.high / check.predicted.low - 1 for check in checks]) < 0.05


def test_a_largest_size_off_the_law_is_found_out():
    """If the largest size is 20 % worse than the law, the interval does not contain it; the law did not see it."""
    points = [
        Run(run.parameters, run.tokens, run.loss * (1.2 if run.parameters == max(SIZES) else 1), run.seed)
        for run in runs(noise=0.005, seeds=3)
    ]
    checked = held_out(points, samples=100)
    assert not any(check.inside for check in checked.checks)
    assert [check.relative_error for check in checked.checks] == pytest.approx([1 / 1.2 - 1] * 3, abs=0.02)


def test_the_largest_size_needs_the_data_of_the_others():
    """The others saw the same tokens: a largest size that saw other tokens cannot be compared."""
    points = [*runs(tokens=(1e8,)), Run(1e9, 1e7, 4.0, 0)]
    with pytest.raises(DataError, match="largest size") as raised:
        held_out(points, samples=1)
    assert "equal data" in raised.value.next_step


def test_too_few_sizes_and_diverged_runs_end_in_a_message():
    """Three sizes for a fit, four to hold one out; all diverged runs are named at once."""
    with pytest.raises(DataError, match="2 sizes") as raised:
        fit(runs(sizes=SIZES[:2]))
    assert "add 1 more" in raised.value.next_step
    with pytest.raises(DataError, match="3 sizes"):
        held_out(runs(sizes=SIZES[:3]))
    with pytest.raises(DataError) as raised:
        fit([*runs(), Run(1e6, 1e7, float("nan"), 7), Run(1e6, 1e7, float("inf"), 8)])
    assert len(raised.value.problems) == 2


def test_the_same_seed_gives_the_same_intervals():
    """Intervals are outputs: they follow from the runs and the seed."""
    points = runs(noise=0.01, seeds=2)
    assert fit(points, samples=10, seed=1) == fit(points, samples=10, seed=1)
    assert fit(points, samples=10, seed=1) != fit(points, samples=10, seed=2)


def test_the_gradient_of_the_objective_is_its_derivative():
    """In the quadratic and in the linear part of the Huber loss."""
    generator = np.random.default_rng(0)
    inputs, target, theta = generator.normal(size=(2, 9)), generator.normal(size=9), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    for delta in (0.5, 10.0):
        error = check_grad(
            lambda t, delta=delta: law_fit._objective(t, inputs, target, delta)[0],
            lambda t, delta=delta: law_fit._objective(t, inputs, target, delta)[1],
            theta,
        )
        assert error < 1e-5
