from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.counter_rng import uniform

KEYS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9))
NUMBERS = st.integers(0, 2**40)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=12)


def drawn(key, pairs, count):
    """Numbers of these (epoch, sample) pairs: (pairs, count)."""
    epochs, samples = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return uniform(key, epochs, samples, count)


@given(KEYS, PAIRS, st.integers(1, 20), st.data())
def test_a_sample_gets_the_same_numbers_in_any_company(key, pairs, count, data):
    """Alone, in another order, among others, and again: one row is a function of key, epoch and sample."""
    rows = drawn(key, pairs, count)
    assert rows.shape == (len(pairs), count)
    assert np.array_equal(np.concatenate([drawn(key, [pair], count) for pair in pairs]), rows)
    order = data.draw(st.permutations(range(len(pairs))))
    assert np.array_equal(drawn(key, [pairs[place] for place in order], count), rows[list(order)])


@given(KEYS, PAIRS, st.integers(1, 20), st.integers(0, 20))
def test_asking_for_more_columns_changes_none_before_them(key, pairs, count, more):
    """A column's number depends on its place alone."""
    assert np.array_equal(drawn(key, pairs, count + more)[:, :count], drawn(key, pairs, count))


@given(KEYS, NUMBERS, NUMBERS, st.sampled_from(["seed", "purpose", "epoch", "sample"]), st.integers(1, 1000))
def test_whatever_a_number_is_for_changes_it(key, epoch, sample, what, by):
    """Another seed, purpose, epoch or sample: not one number in common."""
    other = {"seed": (key[0] + by, key[1]), "purpose": (key[0], key[1] + by)}.get(what, key)
    pair = (epoch + by * (what == "epoch"), sample + by * (what == "sample"))
    assert not np.isin(drawn(other, [pair], 50), drawn(key, [(epoch, sample)], 50)).any()


def test_epoch_and_sample_do_not_stand_for_each_other():
    """(1, 2) is not (2, 1), nor are both (0, 3); the same holds within the key."""
    found = np.concatenate([drawn((0, 0), [pair], 8) for pair in [(1, 2), (2, 1), (0, 3), (3, 0)]])
    keyed = np.concatenate([drawn(key, [(0, 0)], 8) for key in [(1, 2), (2, 1), (0, 3), (3, 0)]])
    assert len(np.unique(found)) == len(np.unique(keyed)) == 32


@pytest.fixture(scope="module")
def table():
    """Numbers of two purposes, three epochs and 2,000 samples in a row: (2, 3, 2000, 64)."""
    epochs, samples = (each.reshape(-1) for each in np.meshgrid(np.arange(3), np.arange(2000), indexing="ij"))
    return np.stack([uniform((0, what), epochs, samples, 64).reshape(3, 2000, 64) for what in (1, 2)])


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
def test_neighbours_have_nothing_to_do_with_each_other(table, axis):
    """Purposes, epochs, samples and columns that follow each other do not correlate."""
    first = np.take(table, range(table.shape[axis] - 1), axis=axis).reshape(-1)
    second = np.take(table, range(1, table.shape[axis]), axis=axis).reshape(-1)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / len(first) ** 0.5


def test_every_sample_and_every_column_has_the_mean_of_all(table):
    """No row and no column stands out: means of 64 and of 2,000 numbers vary as independent ones do."""
    for means, size in ((table.mean(axis=3), 64), (table.mean(axis=2), 2000)):
        assert abs(means.var() * size * 12 - 1) < 5 * (2 / means.size) ** 0.5


def test_no_samples_have_no_numbers():
    """Nothing asked for, nothing drawn."""
    assert drawn((0, 1), [], 5).shape == (0, 5)


def test_the_numbers_are_those_of_splitmix64():
    """Against plain arithmetic of whole numbers: the definition, which no other library version may change."""
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
    right = [(mix((state + column * golden) & mask) >> 11) / 2**53 for column in (1, 2, 3)]
    assert drawn((7, 1), [(3, 2**40)], 3)[0].tolist() == right
