from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.training.schedule import DECAY, RANGE, learning_rate, warmup_steps

PEAK = 0.01
NAMES = ["constant", "linear", "cosine", "wsd"]
STEPS = st.integers(1, 300)
WARMUP = st.one_of(st.floats(0, 0.999), st.integers(1, 400).map(float))


def rates(steps, schedule, warmup):
    """The learning rate of each step."""
    return [learning_rate(step, steps, peak=PEAK, warmup=warmup, schedule=schedule) for step in range(steps)]


def peak(steps, warmup):
    """The first step at the full rate."""
    return max(1, warmup_steps(steps, warmup)) - 1


@given(STEPS, st.sampled_from(NAMES), WARMUP)
def test_the_rate_rises_to_its_peak_and_never_rises_again(steps, schedule, warmup):
    """Never zero, never above the peak, which is reached at the end of the warm-up."""
    values, top = rates(steps, schedule, warmup), peak(steps, warmup)
    assert min(values) > 0
    assert max(values) <= PEAK * (1 + 1e-12)
    assert schedule == "wsd" or values[top] == pytest.approx(PEAK)
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top + 1 :] == sorted(values[top + 1 :], reverse=True)


@given(STEPS, st.sampled_from(NAMES), WARMUP)
def test_the_warm_up_is_linear(steps, schedule, warmup):
    """In equal increments from zero, which is left out."""
    values, top = rates(steps, schedule, warmup), peak(steps, warmup)
    assert values[: top + 1] == pytest.approx([PEAK * (step + 1) / (top + 1) for step in range(top + 1)])


@given(STEPS, WARMUP)
def test_constant_stays_at_the_peak(steps, warmup):
    """To the last step."""
    after = rates(steps, "constant", warmup)[peak(steps, warmup) :]
    assert after == pytest.approx([PEAK] * len(after))


@given(STEPS, WARMUP)
def test_linear_falls_in_equal_steps_to_zero(steps, warmup):
    """The step after the last would have the rate zero."""
    after = [*rates(steps, "linear", warmup)[peak(steps, warmup) + 1 :], 0.0]
    differences = [second - first for first, second in itertools.pairwise(after)]
    assert differences == pytest.approx([-PEAK / max(1, len(differences))] * len(differences))


@given(st.integers(2, 150), st.integers(1, 50))
def test_cosine_is_half_way_down_in_the_middle(half, warmup):
    """And symmetric around the middle."""
    steps = warmup + 2 * half
    values = rates(steps, "cosine", float(warmup))
    assert values[warmup + half] == pytest.approx(PEAK / 2)
    for distance in range(half):
        assert values[warmup + half - distance] + values[warmup + half + distance] == pytest.approx(PEAK)


@given(st.integers(10, 300), st.floats(0, 0.5))
def test_wsd_is_stable_and_falls_in_the_last_fifth(steps, warmup):
    """Linearly over the last DECAY of all steps."""
    values = rates(steps, "wsd", warmup)
    decay = round(DECAY * steps)
    stable = values[peak(steps, warmup) : steps - decay + 1]
    assert stable == pytest.approx([PEAK] * len(stable))
    assert values[steps - decay :] == pytest.approx([PEAK * (decay - step) / decay for step in range(decay)])


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"),
    [(100, 0.0, 0), (100, 0.1, 10), (100, 0.999, 100), (100, 1.0, 1), (100, 7.0, 7), (100, 100.0, 100), (3, 100.0, 3)],
)
def test_a_warm_up_below_one_is_a_share_of_the_steps_else_their_number(steps, warmup, expected):
    """At most all steps."""
    assert warmup_steps(steps, warmup) == expected


@given(st.integers(2, 300), WARMUP)
def test_a_range_test_multiplies_the_rate_by_the_same_factor(steps, warmup):
    """From near the first rate up to the peak in the last step, without a warm-up."""
    values = rates(steps, "range", warmup)
    assert values[-1] == pytest.approx(PEAK)
    assert values[0] == pytest.approx(PEAK * RANGE ** ((steps - 1) / steps))
    factors = [after / before for before, after in itertools.pairwise(values)]
    assert factors == pytest.approx([factors[0]] * len(factors))
