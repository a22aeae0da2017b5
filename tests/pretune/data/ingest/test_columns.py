from __future__ import annotations

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pretune.config.section import describe
from pretune.data.ingest.columns import ABSENT, find
from pretune.data.ingest.values import canonical, parsed
from pretune.errors import ParamsError

SCALAR = st.text() | st.integers() | st.floats(-1e15, 1e15) | st.booleans()
NAME = st.text(st.sampled_from("ab."), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({"text": "review"}, {"text": "r", "label": "1", "score": 5.0}),  # adds a name, replaces none
        ({"text": "review", "score": None}, {"text": "r", "label": "1"}),  # null: switched off
        ({"text": "review", "label": "score"}, {"text": "r", "label": "5"}),  # used for another of our columns
        ({"text": ["text", "review"]}, {"text": "t\nr", "label": "1", "score": 5.0}),
        ({"group": "review"}, {"text": "t", "label": "1", "score": 5.0, "group": "r"}),
    ],
)
def test_a_mapping_adds_to_the_names_of_the_source(read, columns, row):
    """What is mapped wins over a column of the same name."""
    assert read({"text": "t", "review": "r", "label": 1, "score": "5"}, columns=columns) == row


def test_columns_have_names_numbers_or_paths(read):
    """A number for a table without header; a path for a part of an object, which may be a text; a literal name wins."""
    assert read({"1": "0.5", "2": "-3", "3": "1e2"}, columns={"x": [1, 2], "y": 3}) == {"x": [0.5, -3.0], "y": [100.0]}
    columns = {"text": "translation.en", "target": "translation.de"}
    expected = {"text": "a", "target": "b"}
    assert read({"translation": {"en": "a", "de": "b"}}, columns=columns) == expected
    assert read({"translation": "{'en': 'a', 'de': 'b'}"}, columns=columns) == expected
    assert read({"translation.en": "a", "translation": {"en": "x", "de": "b"}}, columns=columns) == expected
    assert read({"translation": None}, columns=columns).startswith("no text")


@given(record=st.recursive(st.just("leaf"), lambda inner: st.dictionaries(NAME, inner, max_size=3), max_leaves=8))
def test_every_path_is_found(record):
    """Also where names have dots themselves."""
    record = record if isinstance(record, dict) else {"a": record}

    def paths(value, prefix=""):
        for name, inner in value.items():
            yield prefix + name, inner
            if isinstance(inner, dict):
                yield from paths(inner, f"{prefix}{name}.")

    found = [path for path, _ in paths(record)]
    for path, value in paths(record):
        assert find(record, path) == value or found.count(path) > 1 or path in record
    assert find(record, "c") is ABSENT


@given(value=SCALAR)
def test_a_label_has_one_spelling(value):
    """In a table, in JSON and in YAML: the text of a number or of a truth value is that value."""
    assert canonical(canonical(value)) == canonical(value)
    assert canonical(str(value)) == canonical(value)


@pytest.mark.parametrize(
    ("labels", "values", "names"),
    [
        ({0: "neg", 1: "pos"}, [0, 1.0, "0", "1.0", "-0.0"], ["neg", "pos", "neg", "pos", "neg"]),
        ({"0.0": "neg", "1": "pos"}, [0, 1], ["neg", "pos"]),
        ({True: "yes", False: "no"}, [True, "true", "TRUE", False], ["yes", "yes", "yes", "no"]),
        ({}, ["0", "0.0", 0], ["0", "0", "0"]),
        ({}, ["007", "v1.0", " a "], ["007", "v1.0", "a"]),
    ],
)
def test_labels_match_in_every_spelling(read, labels, values, names):
    """Of the file and of the YAML; other texts stay as they are."""
    rows = [{"text": "x", "label": value} for value in values]
    assert [row["label"] for row in read(*rows, labels=labels)] == names


def test_two_names_for_one_label_are_an_error(read):
    """0 and 0.0 are one label. Texts and numbers together are refused: DVC cannot sort them."""
    with pytest.raises(ParamsError, match="has two names, a and b"):
        read({"text": "x"}, labels={"0": "a", "0.0": "b"})
    with pytest.raises(ValidationError, match=r'in quotes: \{"0": a, "n/a": b\}'):
        read({"text": "x"}, labels={0: "a", "n/a": "b"})


def test_missing_values_are_missing_as_numbers_and_as_texts(read):
    """-1 of a class label, NaN of a table that pandas wrote."""
    rows = [{"text": "x", "label": value} for value in (-1, "-1", -1.0, float("nan"), None, "", 0)]
    for missing in ([-1], ["-1"]):
        assert [row.get("label") for row in read(*rows, missing=missing)] == [None] * 6 + ["0"]


@pytest.mark.parametrize("value", [["a"], {"a": 1}, "['a', 'b']", '["a"]', "['a' 'b']"])
def test_a_list_is_no_label(read, value):
    """Not one of one element either: it belongs in `labels`."""
    assert read({"text": "x", "label": value}).startswith("label: a list or an object, not one class")


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({"fire": 0, "flood": "1", "storm": 1.0}, ["flood", "storm"]),
        ({"fire": "False", "flood": False, "storm": "0.0"}, []),
        ({"fire": True, "flood": 2, "storm": 0}, "labels: neither 0 nor 1: flood is 2"),
        ({"fire": 1, "flood": None, "storm": 0}, "labels: a value is missing: flood is empty"),
        ({"fire": None, "flood": "", "storm": None}, None),
    ],
)
def test_columns_of_zeros_and_ones_are_labels(read, values, labels):
    """The names of the columns with 1; of an object of numbers too, which need not hold every name."""
    columns = {"labels": ["fire", "flood", "storm"]}
    row = read({"text": "x"} | values, columns=columns)
    assert row == ({"text": "x", "labels": labels} if isinstance(labels, list) else labels or {"text": "x"})
    if isinstance(labels, list):
        assert read({"text": "x", "cats": values}, columns={"labels": "cats"}) == row
        assert read({"text": "x", "cats": json.dumps(values)}, columns={"labels": "cats"}) == row


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['it''s']", None),  # Python would read one text
        ("['a', 'b' 'c']", None),
        ("[1 2 ... 9]", None),  # NumPy leaves out the middle of a long array
        ("{'a', 'b'}", None),  # a set has no order
        ("[os.sep]", None),
        ("['a' \"it's\"]", ["a", "it's"]),
        ("[1. -2.5]", [1.0, -2.5]),
        ("['']", [""]),
        ("[]", []),
    ],
)
def test_lists_of_python_and_numpy_are_read_or_refused(text, expected):
    """Never evaluated, never joined."""
    assert parsed(text) == expected


@given(items=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4))
def test_a_list_that_pandas_wrote_is_read_back(items):
    """As Python or NumPy prints it into a cell."""
    for cell in (items, np.array(items, dtype=object)):
        table = io.StringIO(pd.DataFrame({"tags": [cell]}).to_csv(index=False))
        assert parsed(next(csv.DictReader(table))["tags"]) == items


def test_labels_and_tags_are_lists_in_each_form(read):
    """Named by `ingest.labels` as `label` is."""
    for value in ([0, 2], "0, 2", "[0, 2]", "['0' '2']", [0.0, 2.0], ["0", "2"]):
        assert read({"text": "x", "labels": value}, labels={0: "fire", 2: "storm"})["labels"] == ["fire", "storm"]
    assert read({"words": "a b", "tags": [0, 1]}, labels={0: "O", 1: "B"})["tags"] == ["O", "B"]
    assert read({"text": "x", "labels": [3]}, labels={0: "fire"}) == "labels: not in ingest.labels: '3'"
    assert read({"text": "x", "labels": [0.5]}).startswith("labels: no list of words")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"instruction": "Add.", "input": "1 + 1", "output": "2"}, [("user", "Add.\n1 + 1"), ("assistant", "2")]),
        ({"instruction": "Hi.", "input": "", "output": "Ho."}, [("user", "Hi."), ("assistant", "Ho.")]),
        ({"instruction": "", "input": None, "output": "Ho."}, "messages: nothing for user"),
        ({"instruction": "Hi.", "input": "", "output": ""}, "messages: nothing for assistant"),
        ({"instruction": "Hi.", "input": 5, "output": "Ho."}, "messages: no text: input is 5"),
    ],
)
def test_a_conversation_is_made_of_columns(read, values, expected):
    """Several for one role; empty ones are left out, and nothing is taken for an answer."""
    row = read(values, columns={"messages": {"user": ["instruction", "input"], "assistant": "output"}})
    if isinstance(expected, str):
        assert row.startswith(expected)
    else:
        assert [(turn["role"], turn["content"]) for turn in row["messages"]] == expected


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ({"answers": []}, []),  # SQuAD 2.0: the context has no answer
        ({"answers": {"text": [], "answer_start": []}}, []),
        ({"answers": {"text": ["so"], "answer_start": [0]}}, [("so", 0)]),
        ({"answers": "{'text': ['so'], 'answer_start': [0]}"}, [("so", 0)]),
        ({"answer": "he", "at": "3.0"}, [("he", 3)]),
        ({"answer": "", "at": -1}, []),
        ({"answer": None, "at": None}, []),
        ({"answers": {"text": [""], "answer_start": [0]}}, []),
        ({"answer": "he", "at": 4}, "answers: not in the context where it should be: 'he' at character 4"),
        ({"answer": 5, "at": 4}, "answers: no list of {text, answer_start}"),
    ],
)
def test_answers_are_lists_or_two_columns(read, values, answers):
    """An empty list is kept: the question has no answer. Empty cells and an empty text say the same."""
    columns = {} if "answers" in values else {"answers": {"text": "answer", "answer_start": "at"}}
    row = read({"question": "q?", "context": "so he"} | values, columns=columns)
    if isinstance(answers, list):
        assert [(answer["text"], answer["start"]) for answer in row["answers"]] == answers
    else:
        assert row.startswith(answers)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"txt": "a"}, "ingest.columns: txt: unknown column (did you mean text?)"),
        ({"text": 1.5}, "ingest.columns: text: the name of a column or a list of them, or null for none, got 1.5"),
        ({"label": ["a", "b"]}, "ingest.columns: label: the name of a column, or null for none, got ['a', 'b']"),
        (
            {"messages": {"users": "a"}},
            "ingest.columns: messages: users is none of system, history, user, assistant (did you mean user?)",
        ),
        ({"answers": {"text": ["a", "b"]}}, "ingest.columns: answers: {name: column}, got {'text': ['a', 'b']}"),
        (["text"], "ingest.columns: write {our column: theirs}, got ['text']"),
    ],
)
def test_a_wrong_mapping_is_an_error_in_plain_words(ingest_params, columns, problem):
    """One line for a mistake, however many forms an entry may have."""
    with pytest.raises(ValidationError) as caught:
        ingest_params(columns=columns)
    assert describe(caught.value, type(ingest_params()), "ingest") == [problem]


def test_a_value_of_several_types_has_one_message(ingest_params):
    """Not one for each type that it might be."""
    with pytest.raises(ValidationError) as caught:
        ingest_params(missing=["NA", None])
    assert describe(caught.value, type(ingest_params()), "ingest") == ["ingest.missing.1: a text or a number, got None"]
