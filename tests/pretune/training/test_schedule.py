from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.training.schedule import DECAY, learning_rate, warmup_steps

PEAK = 0.01
NAMES = ["constant", "linear", "cosine", "wsd"]
STEPS = st.integers(1, 300)
WARMUP = st.one_of(st.floats(0, 0.999), st.integers(1, 400).map(float))


@pytest.fixture(scope="module")
def rates(params_file):
    """A function from steps, schedule and warm-up to the rate of each step."""
    from pretune.config.params import load

    settings = load(params_file).finetune

    def found(steps, schedule, warmup):
        chosen = settings.model_copy(update={"learning_rate": PEAK, "schedule": schedule, "warmup": warmup})
        return [learning_rate(step, steps, chosen) for step in range(steps)]

    return found


def peak(steps, warmup):
    """The first step at the full rate."""
    return max(1, warmup_steps(steps, warmup)) - 1


@given(STEPS, st.sampled_from(NAMES), WARMUP)
def test_the_rate_rises_to_its_peak_and_never_rises_again(rates, steps, schedule, warmup):
    """Never zero, never above the setting, which is reached at the end of the warm-up."""
    found, top = rates(steps, schedule, warmup), peak(steps, warmup)
    assert min(found) > 0
    assert max(found) <= PEAK * (1 + 1e-12)
    assert schedule == "wsd" or found[top] == pytest.approx(PEAK)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top + 1 :] == sorted(found[top + 1 :], reverse=True)


@given(STEPS, st.sampled_from(NAMES), WARMUP)
def test_the_warm_up_is_linear(rates, steps, schedule, warmup):
    """Equal steps from zero, which is not taken."""
    found, top = rates(steps, schedule, warmup), peak(steps, warmup)
    assert found[: top + 1] == pytest.approx([PEAK * (step + 1) / (top + 1) for step in range(top + 1)])


@given(STEPS, WARMUP)
def test_constant_stays(rates, steps, warmup):
    """At the peak, to the last step."""
    after = rates(steps, "constant", warmup)[peak(steps, warmup) :]
    assert after == pytest.approx([PEAK] * len(after))


@given(STEPS, WARMUP)
def test_linear_falls_in_equal_steps_to_zero(rates, steps, warmup):
    """The step after the last one would have none."""
    after = [*rates(steps, "linear", warmup)[peak(steps, warmup) + 1 :], 0.0]
    differences = [second - first for first, second in itertools.pairwise(after)]
    assert differences == pytest.approx([-PEAK / max(1, len(differences))] * len(differences))


@given(st.integers(2, 150), st.integers(1, 50))
def test_cosine_is_half_way_down_in_the_middle(rates, half, warmup):
    """And as far from the peak before it as from zero after it."""
    steps = warmup + 2 * half
    found = rates(steps, "cosine", float(warmup))
    assert found[warmup + half] == pytest.approx(PEAK / 2)
    for distance in range(half):
        assert found[warmup + half - distance] + found[warmup + half + distance] == pytest.approx(PEAK)


@given(st.integers(10, 300), st.floats(0, 0.5))
def test_wsd_is_stable_and_falls_in_the_last_fifth(rates, steps, warmup):
    """Linear over the last DECAY of all steps."""
    found = rates(steps, "wsd", warmup)
    decay = round(DECAY * steps)
    stable = found[peak(steps, warmup) : steps - decay + 1]
    assert stable == pytest.approx([PEAK] * len(stable))
    assert found[steps - decay :] == pytest.approx([PEAK * (decay - step) / decay for step in range(decay)])


@pytest.mark.parametrize(
    ("steps", "warmup", "expected"),
    [(100, 0.0, 0), (100, 0.1, 10), (100, 0.999, 100), (100, 1.0, 1), (100, 7.0, 7), (100, 100.0, 100), (3, 100.0, 3)],
)
def test_a_warm_up_below_one_is_a_share_from_one_on_it_is_steps(steps, warmup, expected):
    """Never more than there are."""
    assert warmup_steps(steps, warmup) == expected
