"""Windows over long contexts, and their best answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.predictor.answers import Window, best, margins, windows, with_null

CONTEXT = " ".join(f"number {n} is about salt harbour {n * n};" for n in range(30))
LENGTH = 32


def row(question="what is about salt?", context=CONTEXT, answer="harbour 25"):
    """A question with its answer in the context."""
    return {
        "question": question,
        "context": context,
        "answers": [{"text": answer, "start": context.index(answer)}],
    }


def test_every_part_of_the_context_is_in_some_window(words):
    """No window exceeds the length, and together they hold all tokens of the context."""
    parts = windows([row()], words, length=LENGTH, overlap=8)
    assert len(parts) > 5
    assert max(len(window.ids) for window in parts) == LENGTH
    seen = {tuple(offset) for window in parts for offset in window.offsets[window.inside]}
    tokens = words(CONTEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert seen == set(tokens)


def test_neighbouring_windows_share_their_ends(words):
    """The overlap is the number of shared tokens."""
    first, second, *_ = windows([row()], words, length=LENGTH, overlap=8)
    shared = [tuple(offset) for offset in first.offsets[first.inside] if offset in second.offsets[second.inside]]
    assert shared == [tuple(offset) for offset in first.offsets[first.inside]][-8:]


def test_the_token_span_of_an_answer_decodes_to_it(words):
    """In each window that holds all of the answer; in others it is (0, 0)."""
    question = row()
    start = question["answers"][0]["start"]
    end = start + len("harbour 25")
    held = 0
    for window in windows([question], words, length=LENGTH, overlap=8):
        first, last = window.token_span(start, end)
        if first:
            held += 1
            assert CONTEXT[window.offsets[first, 0] : window.offsets[last, 1]].strip() == "harbour 25"
        else:
            assert last == 0
    assert held >= 1


def test_a_question_longer_than_half_a_window_is_cut(words):
    """So every window holds a part of the context."""
    parts = windows([row(question="salt harbour " * 40)], words, length=LENGTH, overlap=30)
    assert all(window.inside.sum() > 0 for window in parts)
    assert max(len(window.ids) for window in parts) <= LENGTH


def test_windows_know_their_row(words):
    """Each window is of one row, in the order of the rows."""
    parts = windows([row(), row(context="salt and harbour 25"), row()], words, length=LENGTH, overlap=8)
    assert [window.row for window in parts] == sorted(window.row for window in parts)
    assert sum(window.row == 1 for window in parts) == 1


def certain(window, first, last):
    """Logits of a model that is certain of a span."""
    logits = np.zeros(len(window.ids)), np.zeros(len(window.ids))
    logits[0][first] = logits[1][last] = 20.0
    return logits


def test_the_span_that_the_model_is_certain_of_is_the_answer(words):
    """In any window; windows without the answer do not count."""
    question = row()
    start = question["answers"][0]["start"]
    parts = windows([question], words, length=LENGTH, overlap=8)
    logits = [certain(window, *window.token_span(start, start + len("harbour 25"))) for window in parts]
    [[(answer, probability), *_]] = best([CONTEXT], parts, logits, number=3, longest=10)
    assert answer == "harbour 25"
    assert probability > 0.99


@given(st.integers(0, 999))
def test_probabilities_are_those_of_all_spans(seed):
    """As listed for a few tokens: no span ends before it begins or is too long; probabilities are normalised."""
    draw = np.random.default_rng(seed)
    offsets = np.array([[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [0, 0]])
    inside = np.array([False, True, True, True, True, False])
    window = Window(0, np.arange(6), np.zeros(6, dtype=int), offsets, inside)
    first, last = draw.normal(size=(2, 6))
    [answers] = best(["abcd"], [window], [(first, last)], number=10, longest=2)
    expected = {"abcd"[i:j]: np.exp(first[i + 1] + last[j]) for i in range(4) for j in range(i + 1, min(i + 2, 4) + 1)}
    total = sum(expected.values())
    assert dict(answers) == pytest.approx({text: value / total for text, value in expected.items()})
    assert [value for _, value in answers] == sorted((value for _, value in answers), reverse=True)


def test_a_context_without_tokens_has_no_answer():
    """No span, no answer, no error."""
    window = Window(0, np.arange(2), np.zeros(2, dtype=int), np.zeros((2, 2), dtype=int), np.zeros(2, dtype=bool))
    assert best([""], [window], [(np.zeros(2), np.zeros(2))], number=3, longest=2) == [[]]


def test_the_margin_of_no_answer_is_that_of_the_authors():
    """The lowest score of a first token, without the highest of a span; spans that are too long do not count."""
    inside = np.array([False, True, True, True])
    parts = [Window(0, np.arange(4), np.zeros(4, dtype=int), np.zeros((4, 2), dtype=int), inside) for _ in range(2)]
    first = (np.array([5.0, 3, 0, 0]), np.array([4.0, 0, 1, 9]))  # null 9; spans 3 + 1 = 4, 3 + 9 too long, 0 + 9 = 9
    second = (np.array([1.0, 2, 8, 0]), np.array([1.0, 7, 2, 0]))  # null 2; spans 2 + 7 = 9, 8 + 2 = 10, 8 + 7 reversed
    assert margins(1, parts, [first, second], longest=2) == [2.0 - 10.0]


@pytest.mark.parametrize(
    ("margin", "number", "expected"),
    [
        (np.log(3), 5, [("", 0.75), ("salt", 0.2), ("sea", 0.05)]),
        (-np.log(3), 5, [("salt", 0.6), ("", 0.25), ("sea", 0.15)]),
        (0.0, 2, [("salt", 0.4), ("", 0.5)]),  # predicted, though its probability is lower: spans share theirs
        (np.inf, 2, [("", 1.0), ("salt", 0.0)]),
    ],
)
def test_no_answer_comes_first_above_the_threshold(margin, number, expected):
    """Its probability is that of no answer against the best span; spans share the remainder."""
    answers = with_null([("salt", 0.8), ("sea", 0.2)], margin, number)
    assert [text for text, _ in answers] == [text for text, _ in expected]
    assert [value for _, value in answers] == pytest.approx([value for _, value in expected])
    assert with_null([], np.inf, number) == [("", 1.0)]
