from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.counter_rng import uniform

KEYS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9))
NUMBERS = st.integers(0, 2**40)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12)


def draw(key, pairs, count):
    """The numbers of (epoch, sample) pairs: (pairs, count)."""
    epochs, samples = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return uniform(key, epochs, samples, count)


@given(KEYS, PAIRS, st.integers(1, 20), st.data())
def test_a_sample_gets_the_same_numbers_in_any_batch(key, pairs, count, data):
    """Alone, with others and in any order: its numbers are a function of key, epoch and sample."""
    rows = draw(key, pairs, count)
    assert rows.shape == (len(pairs), count)
    assert np.array_equal(np.concatenate([draw(key, [pair], count) for pair in pairs]), rows)
    order = data.draw(st.permutations(range(len(pairs))))
    assert np.array_equal(draw(key, [pairs[place] for place in order], count), rows[list(order)])


@given(KEYS, PAIRS, st.integers(1, 20), st.integers(0, 20))
def test_more_columns_leave_the_first_ones_unchanged(key, pairs, count, more):
    """The number in a column does not depend on their count."""
    assert np.array_equal(draw(key, pairs, count + more)[:, :count], draw(key, pairs, count))


@given(KEYS, NUMBERS, NUMBERS, st.sampled_from(["seed", "purpose", "epoch", "sample"]), st.integers(1, 1000))
def test_every_part_of_the_key_changes_the_numbers(key, epoch, sample, part, step):
    """Another seed, purpose, epoch or sample: not one number in common."""
    other = {"seed": (key[0] + step, key[1]), "purpose": (key[0], key[1] + step)}.get(part, key)
    pair = (epoch + step * (part == "epoch"), sample + step * (part == "sample"))
    assert not np.isin(draw(other, [pair], 50), draw(key, [(epoch, sample)], 50)).any()


def test_epoch_and_sample_are_not_interchangeable():
    """(1, 2), (2, 1), (3, 0) and (0, 3) give different numbers; the same holds within the key."""
    paired = np.concatenate([draw((0, 0), [pair], 8) for pair in [(1, 2), (2, 1), (0, 3), (3, 0)]])
    keyed = np.concatenate([draw(key, [(0, 0)], 8) for key in [(1, 2), (2, 1), (0, 3), (3, 0)]])
    assert len(np.unique(paired)) == len(np.unique(keyed)) == 32


@pytest.fixture(scope="module")
def table():
    """Numbers of two purposes, three epochs and 2,000 consecutive samples: (2, 3, 2000, 64)."""
    epochs, samples = (axis.reshape(-1) for axis in np.meshgrid(np.arange(3), np.arange(2000), indexing="ij"))
    return np.stack([uniform((0, purpose), epochs, samples, 64).reshape(3, 2000, 64) for purpose in (1, 2)])


def test_numbers_are_in_the_unit_interval_and_spread_evenly(table):
    """Mean, variance and each hundredth are those of the uniform distribution, four standard errors wide."""
    assert (table >= 0).all()
    assert (table < 1).all()
    size = table.size
    assert abs(table.mean() - 0.5) < 4 * (1 / 12 / size) ** 0.5
    assert abs(table.var() - 1 / 12) < 4 * (1 / 180 / size) ** 0.5
    counts, _ = np.histogram(table, bins=100, range=(0, 1))
    assert abs(((counts - size / 100) ** 2 / (size / 100)).sum() - 99) < 4 * (2 * 99) ** 0.5


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_neighbours_are_not_correlated(table, axis):
    """Consecutive purposes, epochs, samples and columns."""
    first = np.take(table, range(table.shape[axis] - 1), axis=axis).reshape(-1)
    second = np.take(table, range(1, table.shape[axis]), axis=axis).reshape(-1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / len(first) ** 0.5


def test_every_sample_and_every_column_has_the_mean_of_all(table):
    """The means of 64 and of 2,000 numbers vary as those of independent numbers."""
    for means, size in ((table.mean(axis=3), 64), (table.mean(axis=2), 2000)):
        assert abs(means.var() * size * 12 - 1) < 5 * (2 / means.size) ** 0.5


def test_no_samples_have_no_numbers():
    """The result has no rows."""
    assert draw((0, 1), [], 5).shape == (0, 5)


def test_the_numbers_are_those_of_splitmix64():
    """Compared with the definition in integer arithmetic, so that no other version of numpy can change them."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(state):
        state = (state + golden) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        return state ^ (state >> 31)

    assert mix(0) == 0xE220A8397B1DCDAF  # the first number of the reference implementation at seed 0
    state = 0
    for part in (7, 1, 3, 2**40):
        state = mix((state + part) & mask)
    expected = [(mix((state + column * golden) & mask) >> 11) / 2**53 for column in (1, 2, 3)]
    assert draw((7, 1), [(3, 2**40)], 3)[0].tolist() == expected
