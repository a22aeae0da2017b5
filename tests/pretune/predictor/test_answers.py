"""Windows over long contexts, and the best answers in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.predictor.answers import Window, best, windows

CONTEXT = " ".join(f"number {n} is about salt harbour {n * n};" for n in range(30))
LENGTH = 32


def row(question="what is about salt?", context=CONTEXT, answer="harbour 25"):
    """A question whose answer stands in the context."""
    return {
        "question": question,
        "context": context,
        "answers": [{"text": answer, "start": context.index(answer)}],
    }


def test_every_part_of_the_context_is_in_some_window(words):
    """Windows are of the length asked for at most, and together hold all of the context's tokens."""
    found = windows([row()], words, length=LENGTH, overlap=8)
    assert len(found) > 5
    assert max(len(each.ids) for each in found) == LENGTH
    seen = {tuple(offset) for each in found for offset in each.offsets[each.inside]}
    tokens = words(CONTEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert seen == set(tokens)


def test_neighbouring_windows_share_their_ends(words):
    """The overlap is the number of tokens in both."""
    first, second, *_ = windows([row()], words, length=LENGTH, overlap=8)
    shared = [tuple(offset) for offset in first.offsets[first.inside] if offset in second.offsets[second.inside]]
    assert shared == [tuple(offset) for offset in first.offsets[first.inside]][-8:]


def test_the_place_of_an_answer_leads_back_to_it(words):
    """From characters to tokens and back, in each window that holds all of it; elsewhere it is the first."""
    asked = row()
    start = asked["answers"][0]["start"]
    end = start + len("harbour 25")
    held = 0
    for window in windows([asked], words, length=LENGTH, overlap=8):
        first, last = window.place(start, end)
        if first:
            held += 1
            assert CONTEXT[window.offsets[first, 0] : window.offsets[last, 1]].strip() == "harbour 25"
        else:
            assert last == 0
    assert held >= 1


def test_a_question_longer_than_half_a_window_is_cut(words):
    """The context has room in any case."""
    found = windows([row(question="salt harbour " * 40)], words, length=LENGTH, overlap=30)
    assert all(each.inside.sum() > 0 for each in found)
    assert max(len(each.ids) for each in found) <= LENGTH


def test_windows_know_their_row(words):
    """Several rows keep apart."""
    found = windows([row(), row(context="salt and harbour 25"), row()], words, length=LENGTH, overlap=8)
    assert [each.row for each in found] == sorted(each.row for each in found)
    assert sum(each.row == 1 for each in found) == 1


def certain(window, first, last):
    """Logits of a model that is sure of a span."""
    scores = np.zeros(len(window.ids)), np.zeros(len(window.ids))
    scores[0][first] = scores[1][last] = 20.0
    return scores


def test_the_span_that_the_model_is_sure_of_is_the_answer(words):
    """Wherever it is, in whatever window; windows that say `not in here` do not count."""
    asked = row()
    start = asked["answers"][0]["start"]
    found = windows([asked], words, length=LENGTH, overlap=8)
    scores = [certain(each, *each.place(start, start + len("harbour 25"))) for each in found]
    [[(answer, probability), *_]] = best([CONTEXT], found, scores, number=3, longest=10)
    assert answer == "harbour 25"
    assert probability > 0.99


@given(st.integers(0, 999))
def test_probabilities_are_those_of_all_spans(seed):
    """All spans of few tokens can be listed: none ends before it begins or is too long; the shares add up to one."""
    draw = np.random.default_rng(seed)
    offsets = np.array([[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [0, 0]])
    inside = np.array([False, True, True, True, True, False])
    window = Window(0, np.arange(6), np.zeros(6, dtype=int), offsets, inside)
    first, last = draw.normal(size=(2, 6))
    [found] = best(["abcd"], [window], [(first, last)], number=10, longest=2)
    expected = {"abcd"[i:j]: np.exp(first[i + 1] + last[j]) for i in range(4) for j in range(i + 1, min(i + 2, 4) + 1)}
    total = sum(expected.values())
    assert dict(found) == pytest.approx({text: value / total for text, value in expected.items()})
    assert [value for _, value in found] == sorted((value for _, value in found), reverse=True)


def test_a_context_without_tokens_has_no_answer():
    """No span, no answer, no error."""
    window = Window(0, np.arange(2), np.zeros(2, dtype=int), np.zeros((2, 2), dtype=int), np.zeros(2, dtype=bool))
    assert best([""], [window], [(np.zeros(2), np.zeros(2))], number=3, longest=2) == [[]]
