from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.errors import DataError
from pretune.evaluation.metrics.bootstrap import Estimate
from pretune.studies.range_test import bracket, plateau, smoothed

RATES = np.geomspace(1e-6, 1, 300)


def valley(noise=0.0, seed=0):
    """A loss of 3 that falls to 1, fastest at 10^-3.5, and explodes from 10^-1.5 on."""
    x = np.log10(RATES)
    rise = np.where(x > -1.5, np.exp(5 * (x + 1.5)) - 1, 0)
    return 3 - 2 / (1 + np.exp(-4 * (x + 3.5))) + rise + noise * np.random.default_rng(seed).normal(size=len(x))


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_a_valley_is_bracketed_where_it_was_planted(noise):
    """Low where a tenth of the fall is done (10^-4.05), steepest at 10^-3.5, high at the foot of the wall."""
    found = bracket(RATES, valley(noise))
    assert np.log10(found.low) == pytest.approx(-4.05, abs=0.2)
    assert np.log10(found.steepest) == pytest.approx(-3.5, abs=0.25)
    assert -2.2 < np.log10(found.high) < -1.4
    assert found.low < found.steepest < found.high < found.diverged
    assert np.log10(found.diverged) == pytest.approx(-1.28, abs=0.15)  # where the loss is 3 again


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_end_the_usable_part(wrong):
    """Divergence at 10^-2, half way through the valley's floor: high lies before it, whatever comes after."""
    losses = valley(0.02)
    losses[RATES > 1e-2] = 0.0
    losses[np.argmax(RATES > 1e-2)] = wrong
    found = bracket(RATES, losses)
    assert found.diverged == RATES[RATES > 1e-2][0]
    assert found.high == RATES[RATES <= 1e-2][-1]
    assert np.log10(found.low) == pytest.approx(-4.05, abs=0.2)


def test_an_explosion_does_not_move_the_bracket_of_smaller_rates():
    """A finite loss of a million is as good as any wall: low and steepest stay where they are."""
    losses = valley()
    losses[RATES > 1e-2] = 1e6
    found, usual = bracket(RATES, losses), bracket(RATES, valley())
    assert np.log10([found.low, found.steepest]) == pytest.approx(np.log10([usual.low, usual.steepest]), abs=0.15)
    assert -2.5 < np.log10(found.high) <= -2


def test_a_loss_that_never_rises_is_bracketed_up_to_the_last_rate():
    """The range ended too early: high is its end, and nothing diverged."""
    keep = RATES < 1e-2
    found = bracket(RATES[keep], valley()[keep])
    assert found.high == RATES[keep][-1]
    assert found.diverged is None


def test_larger_shares_move_the_ends():
    """More of the fall before low, more of a rise before high."""
    narrow, wide = bracket(RATES, valley(), fallen=0.3, risen=0.05), bracket(RATES, valley(), fallen=0.05, risen=0.3)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_flat_curve_ends_in_a_message(noise):
    """Noise alone is no fall: the range must go higher."""
    losses = 3 + noise * np.random.default_rng(0).normal(size=len(RATES))
    with pytest.raises(DataError, match="does not change") as raised:
        bracket(RATES, losses)
    assert "larger rate, 1e+02" in raised.value.next_step


def test_noise_is_rarely_taken_for_a_fall():
    """Of 200 curves of pure noise, at most two get a bracket."""
    generator, brackets = np.random.default_rng(1), 0
    for _ in range(200):
        try:
            bracket(RATES, 3 + generator.normal(size=len(RATES)))
            brackets += 1
        except DataError:
            pass
    assert brackets <= 2


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_curve_that_only_rises_ends_in_a_message(noise):
    """All rates were too large: the range must begin lower."""
    losses = 3 + np.exp(np.log10(RATES)) + noise * np.random.default_rng(0).normal(size=len(RATES))
    with pytest.raises(DataError, match="only rises") as raised:
        bracket(RATES, losses)
    assert "smaller rate, 1e-08" in raised.value.next_step


def test_a_run_that_diverges_at_once_or_has_wrong_rates_ends_in_a_message():
    """Too few finite losses; rates that do not grow; unequal lengths."""
    losses = valley()
    losses[5:] = np.nan
    with pytest.raises(DataError, match="first 5 steps"):
        bracket(RATES, losses)
    with pytest.raises(DataError, match="larger than the one before"):
        bracket(RATES[::-1], valley())
    with pytest.raises(DataError, match="300 rates, but 299 losses"):
        bracket(RATES, valley()[1:])


@given(st.floats(-100, 100), st.floats(0.5, 50))
def test_smoothing_is_unbiased_from_the_first_step_and_has_no_lag(level, span):
    """A constant stays the same; a peak stays where it is."""
    assert smoothed(np.full(40, level), span) == pytest.approx(np.full(40, level), abs=1e-9)
    peak = smoothed(np.eye(41)[20], span)
    assert np.argmax(peak) == 20
    assert peak == pytest.approx(peak[::-1])


def sweep(*values, half=0.01):
    """Estimates with intervals of equal width."""
    return [Estimate(value, value - half, value + half) for value in values]


SWEEP = [1e-5, 2e-5, 4e-5, 8e-5, 32e-5]


def test_the_plateau_holds_the_rates_that_the_sweep_cannot_tell_from_the_best():
    """Intervals that cover the best value; edges are what a factor of 2 costs, here over one and over two of them."""
    found = plateau(SWEEP, sweep(0.70, 0.895, 0.90, 0.892, 0.80), higher_is_better=True)
    assert (found.best, found.low, found.high) == (4e-5, 2e-5, 8e-5)
    assert found.left_edge == pytest.approx(0.195)
    assert found.right_edge == pytest.approx(0.092 / 2)


def test_a_loss_has_its_plateau_at_the_bottom():
    """Lower is better: the same sweep of 1 - metric gives the same plateau with the same positive edges."""
    high = plateau(SWEEP, sweep(0.70, 0.895, 0.90, 0.892, 0.80), higher_is_better=True)
    low = plateau(SWEEP, sweep(0.30, 0.105, 0.10, 0.108, 0.20), higher_is_better=False)
    assert (low.best, low.low, low.high) == (high.best, high.low, high.high)
    assert (low.left_edge, low.right_edge) == pytest.approx((high.left_edge, high.right_edge))


def test_an_edge_that_the_sweep_does_not_reach_is_unknown():
    """The best rate is the last one: nobody knows what lies beyond; the order of the rates does not matter."""
    found = plateau(SWEEP[::-1], sweep(0.5, 0.6, 0.7, 0.8, 0.9)[::-1], higher_is_better=True)
    assert (found.low, found.high, found.right_edge) == (32e-5, 32e-5, None)
    assert found.left_edge == pytest.approx(0.05)


def test_a_rate_beyond_a_bad_one_does_not_belong_to_the_plateau():
    """A plateau has no holes: a wide interval on the other side of a drop does not count."""
    estimates = sweep(0.90, 0.5, 0.90, 0.9, 0.7)
    estimates[0] = Estimate(0.8, 0.1, 1.0)
    assert plateau(SWEEP, estimates, higher_is_better=True).low == 4e-5


def test_a_tolerance_widens_the_plateau():
    """A loss of 0.1 that does not matter to the user."""
    estimates = sweep(0.70, 0.895, 0.90, 0.892, 0.80)
    assert plateau(SWEEP, estimates, higher_is_better=True, tolerance=0.11).high == 32e-5


def test_a_rate_that_diverged_is_an_infinitely_steep_edge():
    """NaN is never the best, nor on the plateau; without any finite value there is a message."""
    estimates = [*sweep(0.7, 0.8, 0.9, 0.9), Estimate(np.nan, np.nan, np.nan)]
    assert plateau(SWEEP, estimates, higher_is_better=True).right_edge == np.inf
    assert plateau(SWEEP, estimates, higher_is_better=False).best == 1e-5
    with pytest.raises(DataError, match="all runs diverged"):
        plateau([1e-3], [estimates[-1]], higher_is_better=True)
    with pytest.raises(DataError, match="distinct"):
        plateau([1e-3, 1e-3], sweep(0.1, 0.2), higher_is_better=True)
