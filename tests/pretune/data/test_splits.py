from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.splits import split
from pretune.errors import DataError

TEXTS = st.lists(st.text(max_size=8), min_size=12, max_size=60, unique=True)


def labelled(texts):
    """A document of each text, with two labels in turn."""
    return [{"text": text, "label": "ab"[row % 2]} for row, text in enumerate(texts)]


def divided(rows, train, validation, test, seed=0):
    """The split into parts of these sizes."""
    return split(rows, train_rows=train, validation_rows=validation, test_rows=test, seed=seed)


def drawn(rows, *sizes, seed=0):
    """The split, or None where the rows do not allow one."""
    try:
        return divided(rows, *(sizes or (4, 3, 4)), seed=seed)
    except DataError:  # so few rows may happen to carry one label only
        return None


@given(TEXTS, st.integers(0, 9), st.tuples(st.integers(1, 5), st.integers(0, 2), st.integers(1, 5)))
def test_sizes_are_exact_and_no_text_is_in_two_parts(texts, seed, sizes):
    """As many rows as asked for, all different, and every label is known to training."""
    rows = labelled(texts) + [{"text": "unlabelled " + text} for text in texts]
    found = drawn(rows, *sizes, seed=seed)
    if found:
        parts = (found.train, found.validation, found.test)
        assert tuple(map(len, parts)) == sizes
        assert len({row["text"] for part in parts for row in part}) == sum(sizes)
        assert {row["label"] for row in found.validation + found.test} <= set(found.labels)
        assert set(found.labels) == {row["label"] for row in found.train}


@given(TEXTS, st.randoms())
def test_the_order_of_the_rows_is_no_input(texts, random):
    """Shuffled rows give the same split, in the same order."""
    rows = labelled(texts)
    shuffled = random.sample(rows, len(rows))
    assert drawn(rows) == drawn(shuffled)


@given(TEXTS)
def test_unlabelled_documents_do_not_move_the_split(texts):
    """Adding text without labels leaves all parts as they were."""
    rows = labelled(texts)
    assert drawn(rows) == drawn([{"text": "more " + text} for text in texts] + rows)


def test_more_training_rows_leave_the_test_rows_alone(documents):
    """Experiments with more labels are scored on the same rows."""
    few, many = (divided(documents, n, 5, 10) for n in (10, 40))
    assert few.test == many.test
    assert many.train[:10] == few.train


def test_more_validation_rows_leave_training_and_test_alone(documents):
    """Watching more closely is no other experiment."""
    none, few, many = (divided(documents, 20, n, 20) for n in (0, 5, 20))
    assert none.validation == []
    assert none.test == few.test == many.test
    assert none.train == few.train == many.train
    assert many.validation[:5] == few.validation


def test_the_seed_draws_other_rows(documents):
    """Another seed is another split."""
    first, second = (divided(documents, 10, 5, 20, seed=seed) for seed in (0, 1))
    for part in ("train", "validation", "test"):
        assert {row["text"] for row in getattr(first, part)} != {row["text"] for row in getattr(second, part)}


@pytest.mark.parametrize("sizes", [(1, 0, 60), (2, 39, 20)])
def test_too_few_rows_is_an_error_with_both_numbers(documents, sizes):
    """What there is and what was asked for stand in the message."""
    with pytest.raises(DataError, match=r"60 labelled rows, but .* is 61"):
        divided(documents, *sizes)


@pytest.mark.parametrize("sizes", [(1, 0, 79), (1, 78, 1)])
def test_a_label_that_only_test_or_validation_rows_have_is_an_error(sizes):
    """A class without a training row cannot be learnt."""
    rows = [{"text": str(n), "label": "common"} for n in range(40)]
    rows += [{"text": f"rare {n}", "label": "rare"} for n in range(40)]
    with pytest.raises(DataError, match="no training row has the label"):
        divided(rows, *sizes)


def test_one_label_only_is_an_error():
    """There is nothing to learn."""
    with pytest.raises(DataError, match="one label only"):
        divided([{"text": str(n), "label": "x"} for n in range(9)], 3, 3, 3)
