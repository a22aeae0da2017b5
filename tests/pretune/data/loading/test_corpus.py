from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading import corpus
from pretune.errors import DataError

PADDING = 65_535
SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=25).filter(any)
LENGTHS = st.integers(1, 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that writes documents of these lengths, each token its own place, and opens them in rows."""

    def make(sizes, length):
        folder = tmp_path_factory.mktemp("corpus")
        ends = np.cumsum(sizes)
        corpus.write(folder, [range(end - size, end) for end, size in zip(ends, sizes, strict=True)])
        return corpus.Sequences(folder, length, PADDING)

    return make


def pieces(sequences, samples=None):
    """For each row its pieces, a list of tokens each, padding left out; `rows` is checked to fit together."""
    samples = range(len(sequences)) if samples is None else samples
    tokens, lengths, real = sequences.rows(np.array(samples))
    assert tokens.dtype == np.int64
    assert len(tokens) == len(real) == lengths.sum() == len(samples) * sequences.length
    assert (lengths > 0).all()
    assert np.array_equal(real, tokens != PADDING)
    bounds = np.cumsum(lengths)
    assert np.isin(np.arange(1, len(samples) + 1) * sequences.length, bounds).all()  # no piece is in two rows
    found = [[] for _ in samples]
    for begin, end in zip(bounds - lengths, bounds, strict=True):
        assert real[begin:end].all() or not real[begin:end].any()  # padding is a piece of its own
        if real[begin]:
            found[begin // sequences.length].append(tokens[begin:end].tolist())
        else:
            assert end % sequences.length == 0  # and the last of its row
    return found


@given(SIZES, LENGTHS)
def test_every_token_is_in_exactly_one_row(made, sizes, length):
    """Nothing is lost, nothing is shown twice, whatever the lengths."""
    found = [token for row in pieces(made(sizes, length)) for piece in row for token in piece]
    assert sorted(found) == list(range(sum(sizes)))


@given(SIZES, LENGTHS)
def test_a_document_is_cut_only_where_it_is_longer_than_a_row(made, sizes, length):
    """Each piece is a whole document, or one of a long document's full rows, or what is left of it."""
    shown = [piece for row in pieces(made(sizes, length)) for piece in row]
    assert all(np.diff(piece, prepend=piece[0] - 1).tolist() == [1] * len(piece) for piece in shown)
    found = {(piece[0], len(piece)) for piece in shown}
    expected = set()
    for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        expected |= {(start, min(length, end - start)) for start in range(end - size, end, length)}
    assert found == expected


@given(SIZES, LENGTHS)
def test_pieces_go_where_they_leave_least_room(sizes, length):
    """As many rows, as full, as when every row is looked at for every piece, the longest first."""
    starts, lengths, bounds = corpus.pack_documents(np.cumsum(sizes), length)
    rooms = []
    for size in sorted(lengths.tolist(), reverse=True):
        best = min((room for room in rooms if room >= size), default=None)
        if best is not None:
            rooms.remove(best)
        rooms.append((length if best is None else best) - size)
    found = [length - lengths[begin:end].sum() for begin, end in pairwise(bounds)]
    assert sorted(found) == sorted(rooms)
    assert (bounds[0], bounds[-1]) == (0, len(starts))


def test_little_is_padding_where_there_are_many_documents():
    """Less than a hundredth, with lengths as they come."""
    sizes = np.random.default_rng(0).geometric(0.02, size=2000)
    _, _, bounds = corpus.pack_documents(np.cumsum(sizes), 64)
    assert 0.99 < sizes.sum() / (64 * (len(bounds) - 1)) <= 1


@given(SIZES, LENGTHS, st.data())
def test_a_row_is_the_same_in_any_company(made, sizes, length, data):
    """Asked for alone, in another order, twice: the same tokens and pieces."""
    sequences = made(sizes, length)
    samples = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=8))
    rows = pieces(sequences)
    assert pieces(sequences, samples) == [rows[sample] for sample in samples]


def test_documents_of_the_length_of_a_row_are_the_rows(made):
    """Row n is document n, without padding."""
    assert pieces(made([3] * 5, 3)) == [[[3 * row, 3 * row + 1, 3 * row + 2]] for row in range(5)]


def test_a_corpus_shorter_than_one_row_is_one_row(made):
    """What is missing is padding, and said to be."""
    tokens, lengths, real = made([2, 3], 8).rows(np.array([0]))
    assert tokens.tolist() == [0, 1, 2, 3, 4, PADDING, PADDING, PADDING]
    assert lengths.tolist() == [2, 3, 3]
    assert real.tolist() == [True] * 5 + [False] * 3


def drawn(sequences):
    """The corpus rows that a part of a corpus of three-token documents has."""
    return [row[0][0] // 3 for row in pieces(sequences)]


@given(st.integers(2, 40), st.data(), st.integers(0, 2**32 - 1))
def test_dividing_keeps_every_row_in_exactly_one_part(made, count, data, seed):
    """As many for validation as asked for, the others for training, each in the order of the corpus."""
    rows = data.draw(st.integers(1, count - 1))
    training, validation = made([3] * count, 3).divide(rows, seed)
    assert (len(training), len(validation)) == (count - rows, rows)
    assert sorted(drawn(training) + drawn(validation)) == list(range(count))
    assert drawn(training) == sorted(drawn(training))
    assert drawn(validation) == sorted(drawn(validation))


def test_the_seed_draws_the_rows_for_validation(made):
    """The same seed the same rows, another seed others; not simply the first or the last."""
    sequences = made([3] * 60, 3)
    first, again, other = (drawn(sequences.divide(10, seed)[1]) for seed in (0, 0, 1))
    assert first == again != other
    assert first not in (list(range(10)), list(range(50, 60)))


def test_a_divided_part_can_be_divided(made):
    """What is drawn from training rows are training rows."""
    training, _ = made([3] * 40, 3).divide(10, 0)
    rest, drawn_again = training.divide(10, 1)
    assert sorted(drawn(rest) + drawn(drawn_again)) == drawn(training)


def test_no_rows_for_validation_are_none(made):
    """All rows train."""
    training, validation = made([3] * 5, 3).divide(0, 0)
    assert drawn(training) == [0, 1, 2, 3, 4]
    assert validation is None


@pytest.mark.parametrize("rows", [5, 6])
def test_more_validation_than_corpus_is_an_error(made, rows):
    """Something has to be left to train on: both numbers and the key are told."""
    with pytest.raises(DataError, match=rf"5 sequences, and pretrain\.validation_rows keeps {rows} out"):
        made([3] * 5, 3).divide(rows, 0)


def test_document_ends_are_kept(tmp_path):
    """`ends` says where each document stops in `tokens`; numbers are as wide as the largest needs."""
    corpus.write(tmp_path, [[1, 2], [], [65_535]])
    assert np.load(tmp_path / "tokens-00000.npy").tolist() == [1, 2, 65_535]
    assert np.load(tmp_path / "tokens-00000.npy").dtype == np.uint16
    assert np.load(tmp_path / "ends-00000.npy").tolist() == [2, 2, 3]
    corpus.write(tmp_path, [[65_536]])
    assert np.load(tmp_path / "tokens-00000.npy").tolist() == [65_536]


def test_a_corpus_without_tokens_is_an_error(tmp_path):
    """Nothing is written of documents that hold nothing."""
    with pytest.raises(DataError):
        corpus.write(tmp_path, [[], []])
    assert not list(tmp_path.iterdir())


def test_a_folder_without_shards_is_an_error(tmp_path):
    """Rows without text: there is nothing to open."""
    with pytest.raises(DataError, match="holds no tokens"):
        corpus.Sequences(tmp_path, 16, 0)
