from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.training.dataloader import EpochSampler, batches
from pretune.training.mixture import Mixture

SIZES = st.integers(1, 60)


class Echo:
    """An objective whose batches are the requested (epoch, sample) pairs."""

    def __init__(self, fails_at=None):
        self.fails_at, self.calls = fails_at, 0

    def batch(self, epochs, samples):
        self.calls += 1
        if self.fails_at is not None and self.calls > self.fails_at:
            raise ValueError("this row cannot be read")
        return list(zip(epochs.tolist(), samples.tolist(), strict=True))


def load(*, steps=9, samples=13, rows=8, parts=1, mine=None, workers=0, seed=0, begin=0, objective=None):
    """All batches of these steps."""
    mine = range(parts) if mine is None else mine
    sampler = EpochSampler(samples, rows, seed)
    return batches(objective or Echo(), sampler, range(begin, steps), parts=parts, mine=mine, workers=workers)


def threads():
    """The threads that prepare batches."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@given(samples=SIZES, rows=SIZES, epochs=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_each_epoch_shows_every_sample_once(samples, rows, epochs, seed):
    """For any numbers of rows and samples, also in steps that span epochs."""
    sampler = EpochSampler(samples, rows, seed)
    steps = [sampler.step(step) for step in range(-(-samples * epochs // rows))]
    shown = list(zip(*(np.concatenate(arrays).tolist() for arrays in zip(*steps, strict=True)), strict=True))
    for epoch in range(epochs):
        part = shown[epoch * samples : (epoch + 1) * samples]
        assert sorted(part) == [(epoch, sample) for sample in range(samples)]


@given(
    sizes=st.lists(st.tuples(st.integers(1, 20), st.floats(0.1, 10)), min_size=1, max_size=4),
    rows=SIZES,
    seed=st.integers(0, 2**32 - 1),
    shard=st.integers(0, 9),
)
def test_parts_of_a_mixture_are_drawn_by_their_weights(sizes, rows, seed, shard):
    """In each epoch, within one draw; no sample twice before all others of its part, over epochs too.

    Also where they lie in shards in storage.
    """
    blocks = {str(n): [shard] * (size // shard) + [size % shard] for n, (size, _) in enumerate(sizes)} if shard else {}
    mixture = Mixture(
        {str(n): size for n, (size, _) in enumerate(sizes)}, {str(n): w for n, (_, w) in enumerate(sizes)}, blocks
    )
    total, weight = sum(mixture.sizes.values()), sum(mixture.weights.values())
    steps = [EpochSampler(total, rows, seed, mixture).step(step)[1] for step in range(-(-3 * total // rows))]
    shown, begin = np.concatenate(steps)[: 3 * total].reshape(3, total), 0
    for name, size in mixture.sizes.items():
        own = [epoch[(epoch >= begin) & (epoch < begin + size)] for epoch in shown]
        assert {len(epoch) for epoch in own} == {mixture.draws()[name]}
        assert abs(len(own[0]) - total * mixture.weights[name] / weight) < 1
        for epochs in range(1, 4):
            counts = np.bincount(np.concatenate(own[:epochs]) - begin, minlength=size)
            assert counts.max() - counts.min() <= 1
        begin += size


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("processes", [1, 4, 16])
def test_a_process_reads_few_shards_at_a_time_and_each_about_once(processes, parts):
    """Those that are in storage; of each part the processes together read 16 at a time, each its own."""
    shards, size, epochs = 64, 50, 2
    sizes = {str(part): shards * size for part in range(parts)}
    mixture = Mixture(sizes, dict.fromkeys(sizes, 1.0), dict.fromkeys(sizes, [size] * shards))
    sampler = EpochSampler(parts * shards * size, 32, 0, mixture)
    kept, fetched = [[] for _ in range(processes)], 0
    for step in range(epochs * parts * shards * size // 32):
        for process, samples in enumerate(np.array_split(sampler.step(step)[1], processes)):
            for shard in dict.fromkeys((samples // size).tolist()):
                fetched += shard not in kept[process]
                kept[process] = [other for other in kept[process] if other != shard] + [shard]
            del kept[process][: -2 * parts * 16 // processes]
    assert fetched <= epochs * parts * (shards + 2 * 16)


@given(samples=SIZES, rows=SIZES, seed=st.integers(0, 2**32 - 1), steps=st.lists(st.integers(0, 50), min_size=1))
def test_a_step_is_a_pure_function_of_seed_and_number(samples, rows, seed, steps):
    """In any order, repeated, or alone; of a mixture too."""
    for mixture in (None, Mixture({"a": samples, "b": 7}, {"a": 0.3, "b": 0.7})):
        kind = samples + 7 * bool(mixture), rows, seed, mixture
        sampler = EpochSampler(*kind)
        for step in steps:
            for drawn, expected in zip(sampler.step(step), EpochSampler(*kind).step(step), strict=True):
                assert np.array_equal(drawn, expected)


def test_epochs_and_seeds_have_orders_of_their_own():
    """No two are the same."""
    orders = [tuple(EpochSampler(20, 20, seed).step(epoch)[1].tolist()) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


@given(samples=SIZES, parts=st.integers(1, 8), size=st.integers(1, 4), workers=st.sampled_from([0, 1, 3]))
def test_parts_and_workers_do_not_change_the_rows_of_a_step(samples, parts, size, workers):
    """The concatenated parts are the step's rows; workers keep the order."""
    rows = parts * size
    whole = [step[0] for step in load(samples=samples, rows=rows)]
    divided = list(load(samples=samples, rows=rows, parts=parts, workers=workers))
    assert [list(itertools.chain(*step)) for step in divided] == whole
    assert {len(part) for step in divided for part in step} == {size}


def test_processes_divide_the_parts_among_them():
    """Each takes its own; together they have all."""
    first, second = (list(load(parts=4, mine=mine)) for mine in (range(2), range(2, 4)))
    assert [a + b for a, b in zip(first, second, strict=True)] == list(load(parts=4))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_later_start_gives_the_remaining_steps(workers):
    """As in a resumed run."""
    assert list(load(begin=5, workers=workers)) == list(load())[5:]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_steps_give_no_batches(workers):
    """As in a run that has finished."""
    assert list(load(begin=9, workers=workers)) == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_in_a_worker_is_raised_where_its_batch_is_due(workers):
    """After the batches before it; no thread is left."""
    delivered = []
    with pytest.raises(ValueError, match="this row cannot be read"):
        delivered.extend(load(workers=workers, objective=Echo(fails_at=4)))
    assert len(delivered) <= 4
    assert not threads()


@pytest.mark.parametrize("workers", [1, 3])
def test_no_thread_is_left_when_the_reader_stops_early(workers):
    """Batches that were not started are not prepared."""
    objective = Echo()
    loader = load(steps=1000, workers=workers, objective=objective)
    next(loader)
    assert threads()
    loader.close()
    assert not threads()
    assert objective.calls <= 2 * workers + 2


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_are_at_most_a_few_steps_ahead(workers):
    """So memory is bounded."""
    objective = Echo()
    loader = load(steps=1000, workers=workers, objective=objective)
    for _ in range(10):
        next(loader)
    loader.close()
    assert objective.calls <= 10 + 2 * workers + 1
