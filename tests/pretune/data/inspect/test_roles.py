"""Which column is what, by values and names."""

from __future__ import annotations

import pytest

from pretune.data.inspect import columns, roles

LONG = "a sentence of several words, number {n}, that nobody wrote twice"


def table(**values):
    """Forty records: texts with {n} in them, or functions of n."""
    return [
        {name: value.format(n=n) if isinstance(value, str) else value(n) for name, value in values.items()}
        for n in range(40)
    ]


def found(records, *, named=None, objective=None):
    """The roles of the columns of these records."""
    return roles.find(columns.profile(records), len(records), named or {}, objective)


def cycle(*values):
    """A function that goes round these values."""
    return lambda n: values[n % len(values)]


TABLES = {
    "two classes": (
        table(id=lambda n: n, review=LONG, stars=cycle("good", "bad")),
        "binary",
        {"text": "review", "label": "stars"},
    ),
    "three classes as numbers": (
        table(text=LONG, label=cycle(0, 1, 2)),
        "classification",
        {"text": "text", "label": "label"},
    ),
    "texts without a header": (
        table(**{"1": cycle("1", "2", "3"), "2": LONG}),
        "classification",
        {"text": "2", "label": "1"},
    ),
    "pairs": (
        table(premise=LONG, hypothesis="so {n}", label=cycle("yes", "no", "maybe")),
        "classification",
        {"text": "premise", "pair": "hypothesis", "label": "label"},
    ),
    "a number with fractions": (
        table(sentence1=LONG, sentence2=LONG, score=lambda n: n / 7),
        "regression",
        {"text": "sentence1", "pair": "sentence2", "score": "score"},
    ),
    "a column for each class": (
        table(comment_text=LONG, rude=cycle(0, 1), threat=cycle(1, 0, 0), id=lambda n: n),
        "multi_label",
        {"text": "comment_text", "labels": ["rude", "threat"]},
    ),
    "lists of classes": (
        table(text=LONG, genres=cycle(["a"], ["b", "c"], [])),
        "multi_label",
        {"text": "text", "labels": "genres"},
    ),
    "classes with commas": (
        table(text=LONG, tags=cycle("a,b", "b,c", "a", "a,b,c", "c,a")),
        "multi_label",
        {"text": "text", "labels": "tags"},
    ),
    "words and tags": (
        table(tokens=lambda n: [f"w{n}", "x"], ner_tags=cycle(["O", "B-X"], ["O", "O"]), id=lambda n: n),
        "token_classification",
        {"words": "tokens", "tags": "ner_tags"},
    ),
    "SQuAD": (
        table(question="who {n}?", context=LONG, answers=lambda n: {"text": ["a"], "answer_start": [0]}),
        "question_answering",
        {"question": "question", "context": "context", "answers": "answers"},
    ),
    "flat SQuAD": (
        table(question="who {n}?", context=LONG, answer_text="a {n}", answer_start=lambda n: n),
        "question_answering",
        {
            "question": "question",
            "context": "context",
            "answers": {"text": "answer_text", "answer_start": "answer_start"},
        },
    ),
    "two languages": (
        table(translation=lambda n: {"en": f"word {n}", "de": f"Wort {n}"}),
        "seq2seq",
        {"text": "translation.en", "target": "translation.de"},
    ),
    "summaries": (
        table(document=LONG, summary=LONG),
        "seq2seq",
        {"text": "document", "target": "summary"},
    ),
    "a text and what it should find": (
        table(query=LONG, positive=LONG, negative=LONG),
        "embedding",
        {"text": "query", "pair": "positive", "negatives": "negative"},
    ),
    "conversations": (
        table(messages=lambda n: [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": "x"}]),
        "instruction",
        {"messages": "messages"},
    ),
    "Alpaca": (
        table(instruction="do {n}", input=cycle("", "this"), output=LONG),
        "instruction",
        {"messages": {"user": ["instruction", "input"], "assistant": "output"}},
    ),
    "texts alone": (table(id=lambda n: n, text=LONG), "language_modelling", {"text": "text"}),
    "images": (
        table(image=lambda n: {"bytes": b"", "path": None}, label=cycle("a", "b")),
        "image_classification",
        {"image": "image", "label": "label"},
    ),
    "numbers": (
        table(a=lambda n: n / 2, b=lambda n: n * n, y=lambda n: n / 3),
        "linear_regression",
        {"x": ["a", "b"], "y": ["y"]},
    ),
    "splits in a column": (
        table(text=LONG, label=cycle("a", "b"), fold=cycle("train", "test", "train")),
        "binary",
        {"text": "text", "label": "label", "split": "fold"},
    ),
    "one of our names that means something else": (
        table(text=LONG, label=cycle("a", "b"), score=lambda n: f"{n} of 40"),
        "binary",
        {"text": "text", "label": "label", "score": None},
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_columns_and_objective_follow_from_values_and_names(name):
    """Each kind of table that people have."""
    records, objective, expected = TABLES[name]
    result = found(records)
    assert (result.objective, result.columns) == (objective, expected)
    assert expected.keys() - {ours for ours, theirs in expected.items() if theirs is None} <= result.why.keys() | {
        "score"
    }


@pytest.mark.parametrize(
    ("records", "option"),
    [
        (table(text=LONG, stars=cycle(1, 2, 3, 4, 5)), "--column score=stars"),
        (table(text=LONG, label=lambda n: n % 25), "--column label=label"),
        (table(body=LONG, summary_of_it=LONG, label=cycle("a", "b")), "--column text=summary_of_it"),
        (
            table(tokens=lambda n: [f"{n}"], ner_tags=cycle(["A"], ["B"]), pos_tags=cycle(["C"], ["D"])),
            "--column tags=pos_tags",
        ),
        (table(text=LONG, first=cycle("a", "b"), second=cycle("c", "d", "e")), "--column label=second"),
        (table(a=lambda n: n / 2, b=lambda n: n / 3), "--column y=NAME"),
    ],
)  # fmt: skip
def test_what_is_not_sure_comes_with_the_option_that_settles_it(records, option):
    """Ordered numbers, several texts, several columns of tags or classes, numbers without a name."""
    assert any(settled.startswith(option) for _, settled in found(records).doubts)


def test_what_is_named_is_taken():
    """`--column` and `--objective` decide; what they settle is no doubt."""
    records = table(title=LONG, body=LONG, stars=cycle(1, 2, 3, 4, 5))
    result = found(records, named={"text": "title", "score": "stars"})
    assert (result.objective, result.columns) == ("regression", {"text": "title", "score": "stars"})
    assert result.doubts == []
    assert found(records, objective="language_modelling").columns == {"text": "body"}
    assert found(records, objective="token_classification") is None


def test_groups_are_a_hint_only():
    """Rows of one author are not kept together by default."""
    result = found(table(text=LONG, label=cycle("a", "b"), author=cycle("x", "y", "z")))
    assert "group" not in result.columns
    assert "--column group=author" in result.hints[0]


def test_words_among_numbers_stand_for_no_value():
    """NA in a column of numbers; a word among texts is a text."""
    profile = columns.profile(table(score=lambda n: "NA" if n % 5 == 0 else f"{n / 3}", text=cycle("NA", "b")))
    assert [(column.kind, column.missing) for column in profile] == [("number", ("NA",)), ("text", ())]
