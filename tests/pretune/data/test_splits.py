from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.documents import Document
from pretune.data.splits import split
from pretune.errors import DataError

TEXTS = st.lists(st.text(max_size=8), min_size=12, max_size=60, unique=True)


def labelled(texts):
    """A document of each text, with two labels in turn."""
    return [Document(text, "ab"[row % 2]) for row, text in enumerate(texts)]


def drawn(rows, *, train_rows=4, test_rows=4, seed=0):
    """The split of the rows, or None where they do not allow one."""
    try:
        return split(rows, train_rows=train_rows, test_rows=test_rows, seed=seed)
    except DataError:  # so few rows may happen to carry one label only
        return None


@given(TEXTS, st.integers(0, 9), st.integers(1, 6), st.integers(1, 6))
def test_sizes_are_exact_and_no_text_is_in_both(texts, seed, train_rows, test_rows):
    """As many rows as asked for, all different, and every test label is known to training."""
    rows = labelled(texts) + [Document("unlabelled " + text) for text in texts]
    parts = drawn(rows, train_rows=train_rows, test_rows=test_rows, seed=seed)
    if parts:
        assert (len(parts.train), len(parts.test)) == (train_rows, test_rows)
        assert len({d.text for d in (*parts.train, *parts.test)}) == train_rows + test_rows
        assert {d.label for d in parts.test} <= set(parts.labels) == {d.label for d in parts.train}


@given(TEXTS, st.randoms())
def test_the_order_of_the_rows_is_no_input(texts, random):
    """Shuffled rows give the same split, in the same order."""
    rows = labelled(texts)
    shuffled = random.sample(rows, len(rows))
    assert drawn(rows) == drawn(shuffled)


@given(TEXTS)
def test_unlabelled_documents_do_not_move_the_split(texts):
    """Adding text without labels leaves both parts as they were."""
    rows = labelled(texts)
    assert drawn(rows) == drawn([Document("more " + text) for text in texts] + rows)


def test_more_training_rows_leave_the_test_rows_alone(documents):
    """Experiments with more labels are scored on the same rows."""
    few, many = (split(documents, train_rows=n, test_rows=20, seed=0) for n in (10, 40))
    assert few.test == many.test
    assert many.train[:10] == few.train


def test_the_seed_draws_other_rows(documents):
    """Another seed is another split."""
    first, second = (split(documents, train_rows=10, test_rows=20, seed=seed) for seed in (0, 1))
    assert {d.text for d in first.test} != {d.text for d in second.test}


def test_too_few_rows_is_an_error_with_both_numbers(documents):
    """What there is and what was asked for stand in the message."""
    with pytest.raises(DataError, match=r"60 labelled documents, but .* is 61"):
        split(documents, train_rows=1, test_rows=60, seed=0)


def test_a_label_that_only_test_rows_have_is_an_error():
    """A class without a training row cannot be learnt."""
    rows = [Document(str(n), "common") for n in range(40)]
    rows += [Document(f"rare {n}", "rare") for n in range(40)]
    with pytest.raises(DataError, match="no training row has the label"):
        split(rows, train_rows=1, test_rows=79, seed=0)


def test_one_label_only_is_an_error():
    """There is nothing to learn."""
    with pytest.raises(DataError, match="one label only"):
        split([Document(str(n), "x") for n in range(9)], train_rows=3, test_rows=3, seed=0)
