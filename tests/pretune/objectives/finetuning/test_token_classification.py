from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.errors import DataError
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.token_classification import TokenClassification
from pretune.predictor import words as predictor

WORDS = st.lists(
    st.text("abcdefghij zß,.", min_size=1, max_size=6).filter(lambda w: " " not in w), min_size=1, max_size=9
)


@given(WORDS)
def test_the_first_token_of_each_word_stands_for_it(words, texts):
    """Each word has one position, in order, and the tokens up to the next position decode to it."""
    ids, firsts = predictor.encode(words, texts, 512)
    assert [number for _, number in firsts] == list(range(len(texts)))
    places = [place for place, _ in firsts] + [len(ids) - 1]
    spelt = [words.decode(ids[one:other]).strip() for one, other in pairwise(places)]
    assert spelt == texts


def test_words_beyond_the_length_are_left_out(words):
    """They have no target, and those before keep theirs."""
    row = {"words": ["salt"] * 40, "tags": ["A", "B"] * 20}
    task = TokenClassification([row], ObjectiveContext(words, 16, 0, None, ["A", "B"]))
    batch = task.batch([0], [0])
    assert batch.tokens == 16
    assert 0 < batch.count < 16
    assert batch.targets.tolist() == ([0, 1] * 20)[: batch.count]


def test_positions_of_a_batch_count_through_all_its_texts(words):
    """The second text's positions are offset by the first text's length."""
    rows = [{"words": ["salt", "flour"], "tags": ["A", "B"]}, {"words": ["butter"], "tags": ["B"]}]
    task = TokenClassification(rows, ObjectiveContext(words, 16, 0, None, ["A", "B"]))
    alone, both = task.batch([0], [0]), task.batch([0, 0], [1, 0])
    first = int(both.packed.lengths[0])
    assert both.targets.tolist() == [1, 0, 1]
    assert both.positions[1:].tolist() == [place + first for place in alone.positions.tolist()]


def test_different_numbers_of_words_and_tags_are_an_error(words):
    """The first such row is named."""
    rows = [{"words": ["a"], "tags": ["A"]}, {"words": ["a", "b"], "tags": ["A"]}]
    with pytest.raises(DataError, match="the first is row 1"):
        TokenClassification(rows, ObjectiveContext(words, 16, 0, None, ["A"]))
