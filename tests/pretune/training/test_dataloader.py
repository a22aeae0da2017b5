from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.training.dataloader import EpochSampler, batches

SIZES = st.integers(1, 60)


class Echo:
    """An objective whose batch is what it was asked for."""

    def __init__(self, fails_at=None):
        self.fails_at, self.asked = fails_at, 0

    def batch(self, epochs, samples):
        self.asked += 1
        if self.fails_at is not None and self.asked > self.fails_at:
            raise ValueError("this row cannot be read")
        return list(zip(epochs.tolist(), samples.tolist(), strict=True))


def fed(*, steps=9, samples=13, rows=8, parts=1, mine=None, workers=0, seed=0, begin=0, objective=None):
    """All batches of these steps."""
    mine = range(parts) if mine is None else mine
    order = EpochSampler(samples, rows, seed)
    return batches(objective or Echo(), order, range(begin, steps), parts=parts, mine=mine, workers=workers)


def threads():
    """The threads that prepare batches."""
    return [each for each in threading.enumerate() if each.name.startswith("batches")]


@given(samples=SIZES, rows=SIZES, epochs=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_each_epoch_shows_every_sample_once(samples, rows, epochs, seed):
    """None is left out and none comes twice, however rows and samples divide, also where a step spans epochs."""
    order = EpochSampler(samples, rows, seed)
    steps = [order.step(step) for step in range(-(-samples * epochs // rows))]
    shown = list(zip(*(np.concatenate(each).tolist() for each in zip(*steps, strict=True)), strict=True))
    for epoch in range(epochs):
        part = shown[epoch * samples : (epoch + 1) * samples]
        assert sorted(part) == [(epoch, sample) for sample in range(samples)]


@given(samples=SIZES, rows=SIZES, seed=st.integers(0, 2**32 - 1), asked=st.lists(st.integers(0, 50), min_size=1))
def test_a_step_is_a_pure_function_of_seed_and_number(samples, rows, seed, asked):
    """In any order, asked for again, or by itself."""
    order = EpochSampler(samples, rows, seed)
    for step in asked:
        for found, expected in zip(order.step(step), EpochSampler(samples, rows, seed).step(step), strict=True):
            assert np.array_equal(found, expected)


def test_epochs_and_seeds_have_orders_of_their_own():
    """No two alike."""
    orders = [tuple(EpochSampler(20, 20, seed).step(epoch)[1].tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@given(samples=SIZES, parts=st.integers(1, 8), each=st.integers(1, 4), workers=st.sampled_from([0, 1, 3]))
def test_parts_and_workers_do_not_change_what_a_step_holds(samples, parts, each, workers):
    """The parts one after the other are the step's rows; workers keep the order."""
    rows = parts * each
    whole = [step[0] for step in fed(samples=samples, rows=rows)]
    divided = list(fed(samples=samples, rows=rows, parts=parts, workers=workers))
    assert [list(itertools.chain(*step)) for step in divided] == whole
    assert {len(part) for step in divided for part in step} == {each}


def test_processes_divide_the_parts_among_them():
    """Each takes those that are its own; together they have all."""
    first, second = (list(fed(parts=4, mine=mine)) for mine in (range(2), range(2, 4)))
    assert [a + b for a, b in zip(first, second, strict=True)] == list(fed(parts=4))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_beginning_later_is_the_rest(workers):
    """What a resumed run reads."""
    assert list(fed(begin=5, workers=workers)) == list(fed())[5:]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_steps_are_no_batches(workers):
    """A run that is done already."""
    assert list(fed(begin=9, workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_in_a_worker_is_raised_where_its_batch_is_due(workers):
    """After the batches before it, and no thread is left."""
    found = []
    with pytest.raises(ValueError, match="this row cannot be read"):
        found.extend(fed(workers=workers, objective=Echo(fails_at=4)))
    assert len(found) <= 4
    assert not threads()


@pytest.mark.parametrize("workers", [1, 3])
def test_no_thread_is_left_when_the_reader_stops_early(workers):
    """What was not begun is not begun any more."""
    objective = Echo()
    feed = fed(steps=1000, workers=workers, objective=objective)
    next(feed)
    assert threads()
    feed.close()
    assert not threads()
    assert objective.asked <= 2 * workers + 2


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_are_a_few_steps_ahead_and_no_more(workers):
    """Memory is bounded."""
    objective = Echo()
    feed = fed(steps=1000, workers=workers, objective=objective)
    for _ in range(10):
        next(feed)
    feed.close()
    assert objective.asked <= 10 + 2 * workers + 1
