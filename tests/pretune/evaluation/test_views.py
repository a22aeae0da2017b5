"""Slices, curves and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import rows
from pretune.evaluation import slices
from pretune.evaluation.report import curves, mistakes
from pretune.objectives.predictions import Answers, Classes

FORMS = ["classes", "two_classes", "many_labels", "numbers", "tags", "texts", "answers", "likelihoods"]
CRITERIA = ("label", "length", "script", "group", "origin")
WORDS = {"latin": "a ship at sea", "chinese": "海上的船", "cyrillic": "корабль"}
ROWS = [
    {"text": text * (n % 9 + 1), "label": f"l{n % 3}", "group": f"g{n % 2}", "origin": f"file{n % 2}.csv:{n}"}
    for n in range(90)
    for text in WORDS.values()
]


def test_slices_are_by_what_rows_have():
    """By label, length, script, group and file; each holds the rows it names."""
    masks = slices.slice_masks(ROWS, CRITERIA)
    expected = {"label l0", "script latin", "script chinese", "script cyrillic", "group g1", "origin file0.csv"}
    assert expected <= set(masks)
    assert len([name for name in masks if name.startswith("length")]) == 4
    for name, mask in masks.items():
        criterion, _, value = name.partition(" ")
        if criterion in {"label", "group"}:
            assert {row[criterion] for row, is_in in zip(ROWS, mask, strict=True) if is_in} == {value}
        assert mask.sum() >= slices.FEWEST


@pytest.mark.parametrize("criterion", CRITERIA)
def test_slices_by_one_criterion_have_no_row_in_common(criterion):
    """A row is in at most one of them."""
    assert np.sum(list(slices.slice_masks(ROWS, [criterion]).values()), axis=0).max() == 1


def test_a_value_that_all_rows_share_makes_no_slice():
    """One label, images without text, too few rows."""
    assert slices.slice_masks([{"text": "x", "label": "a"}] * 50, CRITERIA) == {}
    assert slices.slice_masks([{"image": b"", "label": f"l{n}"} for n in range(30)], CRITERIA) == {}


@pytest.mark.parametrize(
    ("row", "full", "read"),
    [
        ({"text": "a", "pair": "b", "target": "c", "label": "d"}, "a\nb", "a\nb"),
        ({"question": "q", "context": "c", "answers": []}, "q\nc", "q\nc"),
        ({"words": ["a", "b"], "tags": ["O", "O"]}, "a b", "a b"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a\nb", "a"),
        ({"messages": [{"role": "user", "content": "a"}]}, "a", "a"),
        ({"messages": [{"content": "a"}], "chosen": [{"content": "b"}], "rejected": [{"content": "c"}]}, "a\nb", "a"),
        ({"image": b"png"}, "", ""),
    ],
)
def test_the_text_of_a_row_has_no_target(row, full, read):
    """All texts but the one to write; the input ends before the last answer of a conversation."""
    assert slices.full_text(row) == full
    assert slices.input_text(row) == read


@given(st.dictionaries(st.sampled_from(["text", "pair", "question"]), st.text(), min_size=1), st.text(max_size=5))
def test_a_row_is_identified_by_its_input(row, label):
    """Its key does not depend on the label, the split or where it came from, but on every text."""
    assert rows.input_key(row) == rows.input_key(row | {"label": label, "origin": "somewhere:3", "split": "test"})
    assert rows.input_key(row) != rows.input_key(row | {"context": "more"})


@pytest.mark.parametrize("name", FORMS)
def test_every_form_has_its_mistakes(forms, name):
    """Up to the limit, each with the number of another row."""
    worst = mistakes.worst_mistakes(forms[name](), 5)
    assert 0 < len(worst) <= 5
    assert all(0 <= mistake.row < 60 for mistake in worst)
    assert len({mistake.row for mistake in worst}) == len(worst)


def test_the_most_confident_mistake_comes_first():
    """Correct predictions are no mistakes, however low their confidence."""
    predictions = Classes(
        ["a", "b"], np.array([0, 0, 0]), np.array([[0.4, 0.6], [0.1, 0.9], [0.55, 0.45]], dtype=np.float32)
    )
    worst = mistakes.worst_mistakes(predictions, 9)
    assert [(mistake.row, mistake.true, mistake.predicted) for mistake in worst] == [(1, "a", "b"), (0, "a", "b")]


def test_no_answer_is_shown_in_words():
    """Predicted or true; nothing for a question without an answer is correct."""
    best = [[("", 0.9)], [("tide", 0.6)], [("", 0.8)]]
    worst = mistakes.worst_mistakes(Answers([["salt"], [], []], ["", "tide", ""], best), 9)
    assert [(mistake.true, mistake.predicted) for mistake in worst] == [
        ("salt", "(no answer)"),
        ("(no answer)", "tide"),
    ]


def test_curves_begin_and_end_where_they_must(forms):
    """ROC from corner to corner, precision and recall at every threshold, one curve a class."""
    tables = curves.tables(forms["classes"]())
    assert {row["label"] for row in tables["roc"]} == {"kitchen", "land", "sea"}
    one = [row for row in tables["roc"] if row["label"] == "sea"]
    assert [(row["false_positives"], row["true_positives"]) for row in (one[0], one[-1])] == [(0, 0), (1, 1)]
    assert all(0 <= row["precision"] <= 1 for row in tables["precision_recall"])
    assert len(tables["confusion"]) == 60
    assert sum(row["rows"] for row in tables["reliability"]) == 60
    assert {row["label"] for row in curves.tables(forms["two_classes"]())["roc"]} == {"yes"}


def test_a_long_curve_is_thinned(forms):
    """No more points than a plot can show; the ends stay."""
    roc = curves.tables(forms["two_classes"](rows=5000, skill=0.3))["roc"]
    assert len(roc) == curves.POINTS
    assert (roc[-1]["false_positives"], roc[-1]["true_positives"]) == (1, 1)
