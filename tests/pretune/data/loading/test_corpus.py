from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import storage
from pretune.data.loading import corpus
from pretune.errors import DataError

PADDING = 65_535
SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=25).filter(any)
LENGTHS = st.integers(1, 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that writes documents of these lengths, with ascending tokens, and opens them as rows."""

    def make(sizes, length):
        folder = tmp_path_factory.mktemp("corpus")
        ends = np.cumsum(sizes)
        corpus.write(folder, [range(end - size, end) for end, size in zip(ends, sizes, strict=True)])
        return corpus.Sequences(folder, length, PADDING)

    return make


@given(sizes=st.lists(SIZES, min_size=1, max_size=4), length=LENGTHS)
def test_rows_hold_documents_of_one_part_and_all_of_them(sizes, length, tmp_path_factory):
    """A part without documents has no rows; the rows of the parts are all rows, in order."""
    folder = tmp_path_factory.mktemp("parts")
    ends = np.cumsum([*chain.from_iterable(sizes)])
    corpus.write(
        folder, [range(end - size, end) for end, size in zip(ends, [*chain.from_iterable(sizes)], strict=True)]
    )
    counts = [0, *map(len, sizes), 0]
    corpus.write_parts(folder, {str(number): corpus.Part(count, 1.0) for number, count in enumerate(counts)})
    whole = corpus.Sequences(folder, length, PADDING)
    parts = whole.by_part()
    assert [row for part in parts.values() for row in pieces(part)] == pieces(whole)
    found = [sorted(token for row in pieces(part) for piece in row for token in piece) for part in parts.values()]
    bounds = np.cumsum([0, 0, *map(sum, sizes), 0])
    assert found == [list(range(*span)) for span in pairwise(bounds.tolist())]


@given(sizes=st.lists(SIZES, min_size=1, max_size=5), length=LENGTHS, held_out=st.integers(0, 9), parts=st.booleans())
def test_shards_in_storage_are_read_as_they_lie(sizes, length, held_out, parts, tmp_path_factory):
    """Every token once; no row holds documents of two shards or parts; `blocks` counts the rows of each shard."""
    folder = tmp_path_factory.mktemp("stored")
    begin = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.FOLDER, str(folder / "copies"))
        for number, shard in enumerate(sizes):
            tokens = np.arange(begin, begin + sum(shard), dtype=np.uint16)
            corpus.save(folder, number, tokens, np.cumsum(shard), f"file://{folder}/storage")
            begin += sum(shard)
        documents = sum(map(len, sizes))
        if parts:
            halves = {"a": documents // 2, "b": documents - documents // 2}
            corpus.write_parts(folder, {name: corpus.Part(count, 1.0) for name, count in halves.items()})
        whole = corpus.Sequences(folder, length, PADDING)
        shown = pieces(whole)
        assert sorted(token for row in shown for piece in row for token in piece) == list(range(begin))
        bounds = np.cumsum([sum(shard) for shard in sizes])
        shards = [np.unique(np.searchsorted(bounds, np.concatenate(row), side="right")) for row in shown]
        assert all(len(found) == 1 for found in shards)
        assert [row for part in whole.by_part().values() for row in pieces(part)] == (shown if parts else [])
        if held_out < len(whole):
            training, validation = whole.divide(held_out, 0)
            chosen = pieces(validation) if validation else []
            assert len(chosen) == held_out
            assert sorted(pieces(training) + chosen) == sorted(shown)
            assert sum(training.blocks()) == len(training)


def pieces(sequences, samples=None):
    """The pieces of each row, as lists of tokens without padding; the three results of `rows` are checked."""
    samples = range(len(sequences)) if samples is None else samples
    tokens, lengths, real = sequences.rows(np.array(samples, dtype=np.int64))
    assert tokens.dtype == np.int64
    assert len(tokens) == len(real) == lengths.sum() == len(samples) * sequences.length
    assert (lengths > 0).all()
    assert np.array_equal(real, tokens != PADDING)
    bounds = np.cumsum(lengths)
    assert np.isin(np.arange(1, len(samples) + 1) * sequences.length, bounds).all()  # no piece is in two rows
    by_row = [[] for _ in samples]
    for begin, end in zip(bounds - lengths, bounds, strict=True):
        assert real[begin:end].all() or not real[begin:end].any()  # padding is a piece of its own
        if real[begin]:
            by_row[begin // sequences.length].append(tokens[begin:end].tolist())
        else:
            assert end % sequences.length == 0  # and the last of its row
    return by_row


@given(SIZES, LENGTHS)
def test_every_token_is_in_exactly_one_row(made, sizes, length):
    """Whatever the lengths."""
    tokens = [token for row in pieces(made(sizes, length)) for piece in row for token in piece]
    assert sorted(tokens) == list(range(sum(sizes)))


@given(SIZES, LENGTHS)
def test_a_document_is_cut_only_where_it_is_longer_than_a_row(made, sizes, length):
    """Each piece is a whole document, or a full row or the rest of a long document."""
    all_pieces = [piece for row in pieces(made(sizes, length)) for piece in row]
    assert all(np.diff(piece, prepend=piece[0] - 1).tolist() == [1] * len(piece) for piece in all_pieces)
    spans = {(piece[0], len(piece)) for piece in all_pieces}
    expected = set()
    for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
        expected |= {(start, min(length, end - start)) for start in range(end - size, end, length)}
    assert spans == expected


@given(SIZES, LENGTHS)
def test_packing_is_best_fit_decreasing(sizes, length):
    """The rows are as many and as full as by a plain implementation that looks at every row for every piece."""
    starts, lengths, bounds = corpus.pack_documents(np.cumsum(sizes), length)
    rooms = []
    for size in sorted(lengths.tolist(), reverse=True):
        best = min((room for room in rooms if room >= size), default=None)
        if best is not None:
            rooms.remove(best)
        rooms.append((length if best is None else best) - size)
    packed = [length - lengths[begin:end].sum() for begin, end in pairwise(bounds)]
    assert sorted(packed) == sorted(rooms)
    assert (bounds[0], bounds[-1]) == (0, len(starts))


def test_little_is_padding_where_there_are_many_documents():
    """Less than a hundredth, for random lengths."""
    sizes = np.random.default_rng(0).geometric(0.02, size=2000)
    _, _, bounds = corpus.pack_documents(np.cumsum(sizes), 64)
    assert 0.99 < sizes.sum() / (64 * (len(bounds) - 1)) <= 1


@given(SIZES, LENGTHS, st.data())
def test_a_row_is_the_same_in_any_batch(made, sizes, length, data):
    """Alone, in another order, twice: the same tokens and pieces."""
    sequences = made(sizes, length)
    samples = data.draw(st.lists(st.integers(0, len(sequences) - 1), min_size=1, max_size=8))
    rows = pieces(sequences)
    assert pieces(sequences, samples) == [rows[sample] for sample in samples]


def test_documents_of_the_length_of_a_row_are_the_rows(made):
    """Row n is document n, without padding."""
    assert pieces(made([3] * 5, 3)) == [[[3 * row, 3 * row + 1, 3 * row + 2]] for row in range(5)]


def test_a_corpus_shorter_than_one_row_is_one_row(made):
    """The rest is padding, and masked."""
    tokens, lengths, real = made([2, 3], 8).rows(np.array([0]))
    assert tokens.tolist() == [0, 1, 2, 3, 4, PADDING, PADDING, PADDING]
    assert lengths.tolist() == [2, 3, 3]
    assert real.tolist() == [True] * 5 + [False] * 3


def row_numbers(sequences):
    """The corpus rows in a part of a corpus of three-token documents."""
    return [row[0][0] // 3 for row in pieces(sequences)]


@given(st.integers(2, 40), st.data(), st.integers(0, 2**32 - 1))
def test_dividing_keeps_every_row_in_exactly_one_part(made, count, data, seed):
    """The requested number of rows validates, the others train, each in the order of the corpus."""
    rows = data.draw(st.integers(1, count - 1))
    training, validation = made([3] * count, 3).divide(rows, seed)
    assert (len(training), len(validation)) == (count - rows, rows)
    assert sorted(row_numbers(training) + row_numbers(validation)) == list(range(count))
    assert row_numbers(training) == sorted(row_numbers(training))
    assert row_numbers(validation) == sorted(row_numbers(validation))


def test_the_seed_draws_the_rows_for_validation(made):
    """The same seed draws the same rows, another seed others, and not simply the first or the last."""
    sequences = made([3] * 60, 3)
    first, again, other = (row_numbers(sequences.divide(10, seed)[1]) for seed in (0, 0, 1))
    assert first == again != other
    assert first not in (list(range(10)), list(range(50, 60)))


def test_a_divided_part_can_be_divided(made):
    """Into rows of that part."""
    training, _ = made([3] * 40, 3).divide(10, 0)
    rest, validation = training.divide(10, 1)
    assert sorted(row_numbers(rest) + row_numbers(validation)) == row_numbers(training)


def test_without_validation_rows_all_rows_train(made):
    """The validation part is None."""
    training, validation = made([3] * 5, 3).divide(0, 0)
    assert row_numbers(training) == [0, 1, 2, 3, 4]
    assert validation is None


@pytest.mark.parametrize("rows", [5, 6])
def test_more_validation_than_corpus_is_an_error(made, rows):
    """The message has both numbers and the key."""
    with pytest.raises(DataError, match=rf"5 sequences, and pretrain\.validation_rows holds out {rows}"):
        made([3] * 5, 3).divide(rows, 0)


def test_document_ends_are_kept(tmp_path):
    """`ends` holds the end of each document in `tokens`, whose type is as wide as the largest id needs."""
    corpus.write(tmp_path, [[1, 2], [], [65_535]])
    assert np.load(tmp_path / "tokens-00000.npy").tolist() == [1, 2, 65_535]
    assert np.load(tmp_path / "tokens-00000.npy").dtype == np.uint16
    assert np.load(tmp_path / "ends-00000.npy").tolist() == [2, 2, 3]
    corpus.write(tmp_path, [[65_536]])
    assert np.load(tmp_path / "tokens-00000.npy").tolist() == [65_536]


def test_a_corpus_without_tokens_is_an_error(tmp_path):
    """Nothing is written."""
    with pytest.raises(DataError):
        corpus.write(tmp_path, [[], []])
    assert not list(tmp_path.iterdir())


def test_a_folder_without_shards_is_an_error(tmp_path):
    """As for rows without text."""
    with pytest.raises(DataError, match="holds no tokens"):
        corpus.Sequences(tmp_path, 16, 0)
