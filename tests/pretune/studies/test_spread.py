from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from pretune.errors import DataError
from pretune.studies.spread import (
    detectable_difference,
    detectable_difference_of_means,
    detectable_difference_of_runs,
    seeds_needed,
    spread,
)

TESTS = 2000
Z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)


def test_the_spread_of_four_seeds_is_that_of_the_textbook():
    """Mean, sd, t-interval (t = 3.182 at 3 degrees of freedom) and chi-square interval (9.348, 0.2158)."""
    found = spread([0.80, 0.82, 0.84, 0.86])
    sd = sqrt(0.002 / 3)
    assert (found.mean, found.sd, found.minimum, found.maximum, found.seeds) == pytest.approx((0.83, sd, 0.8, 0.86, 4))
    assert (found.low, found.high) == pytest.approx((0.83 - 3.182 * sd / 2, 0.83 + 3.182 * sd / 2), abs=1e-5)
    assert (found.sd_low, found.sd_high) == pytest.approx((sqrt(0.002 / 9.348), sqrt(0.002 / 0.2158)), rel=1e-3)


def test_both_intervals_cover_the_truth_as_often_as_their_confidence():
    """The 90 % intervals of 2000 samples of five seeds contain the mean and the sd in nine of ten cases."""
    samples = np.random.default_rng(0).normal(3.0, 0.5, (TESTS, 5))
    spreads = [spread(list(sample), confidence=0.9) for sample in samples]
    assert 0.88 <= np.mean([item.low <= 3.0 <= item.high for item in spreads]) <= 0.92
    assert 0.88 <= np.mean([item.sd_low <= 0.5 <= item.sd_high for item in spreads]) <= 0.92


def test_equal_seeds_have_no_spread():
    """A deterministic run: every width is 0, nothing crashes."""
    found = spread([0.5, 0.5, 0.5])
    assert (found.sd, found.low, found.high, found.sd_high) == (0, 0.5, 0.5, 0)


def test_a_spread_needs_two_finite_values():
    """All problems at once, with the next step."""
    with pytest.raises(DataError) as raised:
        spread([float("nan")])
    assert len(raised.value.problems) == 2
    assert "pretune study seeds" in raised.value.next_step


@pytest.mark.parametrize("rows", [5, 30, 400])
def test_the_detectable_difference_is_detected_in_four_of_five_paired_tests(rows):
    """Simulated paired t-tests on rows with this true difference reject in 80 %; with none, in 5 %."""
    noise = np.random.default_rng(rows).normal(0, 0.4, (TESTS, rows))
    shift = detectable_difference(0.4, rows)
    assert 0.77 <= (stats.ttest_1samp(noise + shift, 0, axis=1).pvalue < 0.05).mean() <= 0.83
    assert 0.035 <= (stats.ttest_1samp(noise, 0, axis=1).pvalue < 0.05).mean() <= 0.065


def test_the_detectable_difference_of_accuracies_holds_for_rows_that_are_right_or_wrong():
    """Differences of -1, 0 and 1: 15 % of 600 rows differ; the t-test of simulated rows finds it in 80 %."""
    differ = 0.15
    shift = detectable_difference(sqrt(differ), 600)
    chances = [(differ - shift) / 2, 1 - differ, (differ + shift) / 2]
    rows = np.random.default_rng(0).choice([-1, 0, 1], (TESTS, 600), p=chances)
    assert 0.77 <= (stats.ttest_1samp(rows, 0, axis=1).pvalue < 0.05).mean() <= 0.84


@pytest.mark.parametrize("seeds", [2, 5, 20])
def test_the_detectable_difference_of_means_is_detected_in_four_of_five_tests(seeds):
    """Simulated t-tests of two models over seeds reject in 80 %."""
    first, second = np.random.default_rng(seeds).normal(0, 0.02, (2, TESTS, seeds))
    shift = detectable_difference_of_means(0.02, seeds)
    assert 0.77 <= (stats.ttest_ind(first + shift, second, axis=1).pvalue < 0.05).mean() <= 0.83


def test_other_powers_and_levels_are_kept():
    """95 % power at level 0.01, by simulation."""
    noise = np.random.default_rng(7).normal(0, 1, (TESTS, 50))
    shift = detectable_difference(1, 50, power=0.95, level=0.01)
    assert 0.935 <= (stats.ttest_1samp(noise + shift, 0, axis=1).pvalue < 0.01).mean() <= 0.965


@pytest.mark.parametrize("rows", [10_000, 10**6, 10**8])
def test_many_rows_give_the_closed_form(rows):
    """(z_0.975 + z_0.8) sd / sqrt(rows); few rows need more than that."""
    assert detectable_difference(0.5, rows) == pytest.approx(Z * 0.5 / sqrt(rows), rel=1e-3)
    assert detectable_difference(0.5, 5) > 1.2 * Z * 0.5 / sqrt(5)


def test_two_rows_and_extreme_settings_have_an_answer():
    """One degree of freedom, and a power of nearly 1: finite, and larger than usual."""
    usual = detectable_difference(1, 2)
    assert usual < detectable_difference(1, 2, power=0.999, level=0.001) < np.inf
    assert detectable_difference(0, 10) == 0


def test_the_seeds_needed_are_the_fewest_that_are_enough():
    """As many find the difference, one fewer does not; Cohen 1988: 17 for an effect of one sd, 64 for half."""
    assert (seeds_needed(1, 1), seeds_needed(0.5, 1)) == (17, 64)
    for difference in (0.1, 0.7, 3.0):
        seeds = seeds_needed(difference, 1)
        assert detectable_difference_of_means(1, seeds) <= difference < detectable_difference_of_means(1, seeds - 1)
    assert seeds_needed(-0.5, 1) == 64


def test_a_spread_of_zero_needs_the_fewest_seeds_of_a_test():
    """Two: a test with one has no spread to compare with."""
    assert seeds_needed(0.1, 0) == seeds_needed(100, 1) == 2


def test_impossible_questions_end_in_a_message():
    """No difference, a tiny one, a negative sd with too few rows at once, a level above the power."""
    for difference in (0.0, 1e-6, float("nan")):
        with pytest.raises(DataError, match="no feasible number of seeds"):
            seeds_needed(difference, 1)
    with pytest.raises(DataError) as raised:
        detectable_difference(-1, 1, power=0.1, level=0.2)
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize("known_from", [3, 5, 20])
def test_a_pair_of_runs_finds_the_difference_it_promises(known_from):
    """Simulated: two single runs, with the spread of other runs, find the detectable difference 8 times in 10."""
    true = detectable_difference_of_runs(0.02, known_from)
    draw = np.random.default_rng(0)
    sd = draw.normal(scale=0.02, size=(20_000, known_from)).std(axis=1, ddof=1)
    observed = true + draw.normal(scale=0.02, size=(20_000, 2)) @ [1, -1]
    found = np.abs(observed) > stats.t.ppf(0.975, known_from - 1) * sd * sqrt(2)
    assert found.mean() == pytest.approx(0.8, abs=0.015)
