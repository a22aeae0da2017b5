from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import corpus
from pretune.errors import DataError


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory):
    """A function that writes rows whose first token is the row's number, and opens them."""

    def make(count, length=3, seed=0, *, tail=0):
        folder = tmp_path_factory.mktemp("corpus")
        corpus.write(folder, [[row] * length for row in range(count)] + [[9_999] * tail])
        return corpus.Sequences(folder, length, seed)

    return make


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_an_epoch_shows_each_row_exactly_once(rows_of, count, size, seed):
    """However batches fall, places [0, n), [n, 2n), … hold every row once."""
    sequences = rows_of(count, seed=seed)
    steps = -(-2 * count // size)
    seen = np.concatenate([sequences.batch(step, size)[:, 0] for step in range(steps)])
    for epoch in (seen[:count], seen[count : 2 * count]):
        assert sorted(epoch) == list(range(count))


@given(st.integers(1, 12), st.integers(1, 5), st.lists(st.integers(0, 20), max_size=8), st.integers(0, 20))
def test_a_batch_does_not_depend_on_the_steps_before_it(rows_of, count, size, before, step):
    """A resumed run asks for a later step first and gets the same rows."""
    fresh, used = rows_of(count), rows_of(count)
    for earlier in before:
        used.batch(earlier, size)
    assert np.array_equal(fresh.batch(step, size), used.batch(step, size))


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_the_last_shorter_row_is_left_out(rows_of, count, length, data):
    """Rows are full: tokens that do not fill one are not shown."""
    tail = data.draw(st.integers(0, length - 1))
    sequences = rows_of(count, length, tail=tail)
    assert len(sequences) == count
    assert 9_999 not in sequences.batch(0, count)


def test_epochs_and_seeds_have_orders_of_their_own(rows_of):
    """Rows come in another order in the next epoch, and under another seed."""
    sequences = rows_of(50)
    first, second = sequences.batch(0, 50)[:, 0], sequences.batch(1, 50)[:, 0]
    assert first.tolist() != second.tolist()
    assert first.tolist() != rows_of(50, seed=1).batch(0, 50)[:, 0].tolist()


def test_document_ends_are_kept(tmp_path):
    """`ends.npy` says where each document stops in `tokens.npy`."""
    corpus.write(tmp_path, [[1, 2], [], [65_535]])
    assert np.load(tmp_path / "tokens.npy").tolist() == [1, 2, 65_535]
    assert np.load(tmp_path / "ends.npy").tolist() == [2, 2, 3]


def test_a_corpus_shorter_than_one_row_is_an_error(tmp_path):
    """Too little text is the user's to mend: a message, not a division by zero."""
    corpus.write(tmp_path, [[5] * 7])
    with pytest.raises(DataError, match="7 tokens"):
        corpus.Sequences(tmp_path, 8, seed=0)


def test_a_corpus_without_tokens_is_an_error(tmp_path):
    """Nothing is written of documents that hold nothing."""
    with pytest.raises(DataError):
        corpus.write(tmp_path, [[], []])
    assert not list(tmp_path.iterdir())
