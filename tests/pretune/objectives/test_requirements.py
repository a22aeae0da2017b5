from __future__ import annotations

import json

import pytest

from pretune.errors import DataError
from pretune.objectives import requirements
from pretune.objectives.finetuning.table import OBJECTIVES


def counts(columns, left_out=(), splits=None, labels=()):
    """What counts.json holds of it."""
    read = {"read": 9, "exact": 5, "near": 3, "labels": dict.fromkeys(labels, 1)}
    return read | {"columns": columns, "left_out": dict.fromkeys(left_out, 1), "splits": splits or {}}


def test_every_objective_has_its_columns():
    """One place names them."""
    assert {name: objective.columns for name, objective in OBJECTIVES.items()} == requirements.COLUMNS


@pytest.mark.parametrize(
    ("objective", "columns"),
    [
        ("classification", {"text label": 390, "text": 10}),  # those without a target are for pretraining
        ("classification", {"text pair label score": 9}),
        ("language_modelling", {"text": 9}),
        ("question_answering", {"question context answers": 9, "question context": 3}),
        ("linear_regression", {"x y": 8, "x": 1}),
    ],
)
def test_rows_that_serve_an_objective(objective, columns):
    """All rows with a target, or all rows if none has one, have its columns."""
    assert requirements.missing(counts(columns), objective) is None


@pytest.mark.parametrize(
    ("objective", "columns", "problem", "instead"),
    [
        ("classification", {"text": 400}, "400 of 400 rows have no label", "language_modelling"),
        ("multi_label", {"text label": 4}, "4 of 4 rows with a target have no labels", "binary, classification"),
        (
            "seq2seq",
            {"text target": 3, "text label": 1},
            "1 of 4 rows with a target have no target",
            "language_modelling",
        ),
        (
            "question_answering",
            {"text": 4},
            "4 of 4 rows have no question; 4 of 4 rows have no context",
            "language_modelling",
        ),
    ],
)
def test_rows_that_lack_a_column_are_an_error(objective, columns, problem, instead):
    """With the columns that the source has besides, and the objectives that these rows serve."""
    error = requirements.missing(counts(columns, ["stars", "labell"]), objective)
    assert problem in error.problems[0]
    assert "stars, labell" in error.problems[1]
    assert instead in error.next_step
    assert ("finetune.objective" in error.next_step) == bool(instead)


def test_rows_that_would_fail_in_finetuning_are_an_error():
    """Three labels for two classes, and a second text in some rows only."""
    three = counts({"text label": 9}, labels=["a", "b", "c"])
    assert "binary needs two labels; the rows have 3: a, b, c" in requirements.missing(three, "binary").problems[0]
    assert requirements.missing(three, "classification") is None
    mixed = counts({"text label": 4, "text pair label": 5}, labels=["a", "b"])
    assert requirements.missing(mixed, "binary").problems == [
        "5 of 9 rows with a target have a `pair`; all or none must"
    ]


def test_a_split_without_targets_and_too_few_rows_are_errors():
    """One document cannot be split; a test set without labels tests nothing."""
    splits = {"": {"rows": 9, "labelled": 9}, "test": {"rows": 5, "labelled": 0}}
    error = requirements.missing(counts({"text label": 9, "text": 5}, splits=splits), "classification")
    assert error.problems == ["none of the 5 rows of the split test has a target"]
    error = requirements.missing(counts({"text": 1}), "classification")
    assert "1 row to" in error.problems[0]
    assert "9 were read, 8 of them repeat others" in error.problems[0]
    assert "no rows to" in requirements.missing(counts({}), "classification").problems[0]
    assert "ingest.format: lines" in error.next_step


def test_the_check_reads_the_snapshot(tmp_path):
    """No snapshot, nothing to say; an objective of another name is refused elsewhere."""
    requirements.check(tmp_path, {"finetune": "classification"})
    (tmp_path / "counts.json").write_text(json.dumps(counts({"text": 9})), encoding="utf-8")
    requirements.check(tmp_path, {"finetune": "language_modelling"})
    requirements.check(tmp_path, {"finetune": "none"})
    with pytest.raises(DataError):
        requirements.check(tmp_path, {"finetune": "classification"})
