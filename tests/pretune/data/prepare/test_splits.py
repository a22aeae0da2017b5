from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.prepare.splits import CORPUS, NONE, TEST, TRAIN, VALIDATION, SplitAssigner, labels_of, ordered, part

TEXTS = st.lists(st.text(max_size=8), min_size=1, max_size=60, unique=True)
SHARES = {"validation_share": 0.2, "test_share": 0.3}


def labelled(texts):
    """A row of each text, with two labels in turn."""
    return [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate(texts)]


def sides(rows, prepare_params, seed=0, **changes):
    """{text: side} of rows that are divided."""
    found = SplitAssigner(rows, prepare_params(**(SHARES | changes)), seed).side
    return {row["text"]: int(side) for row, side in zip(rows, found, strict=True)}


@given(TEXTS, TEXTS, st.randoms(), st.integers(0, 9))
def test_rows_that_are_added_move_no_row(prepare_params, texts, more, random, seed):
    """Whatever comes beside an old row, and in whatever order, it stays on its side."""
    old = labelled(texts)
    grown = old + labelled([f"new {text}" for text in more])
    before, after = sides(old, prepare_params, seed), sides(random.sample(grown, len(grown)), prepare_params, seed)
    assert {text: after[text] for text in before} == before


@given(TEXTS, st.integers(0, 3), st.integers(0, 3))
def test_larger_shares_only_take_from_training(prepare_params, texts, validation, test):
    """A row of the test side stays there when the share grows."""
    rows = labelled(texts)
    few = sides(rows, prepare_params, test_share=0.1 * test, validation_share=0.1)
    many = sides(rows, prepare_params, test_share=0.1 * test + 0.1, validation_share=0.1 * validation)
    assert all(many[text] == TEST for text, side in few.items() if side == TEST)


def test_sides_have_about_their_shares(prepare_params):
    """Of ten thousand rows, within four standard deviations; another seed draws others."""
    rows = labelled([str(number) for number in range(10_000)])
    first, other = (Counter(sides(rows, prepare_params, seed).items()) for seed in (0, 1))
    counts = Counter(side for _, side in first)
    assert abs(counts[TEST] - 3000) < 4 * 46
    assert abs(counts[VALIDATION] - 2000) < 4 * 40
    assert first != other


@given(st.lists(st.tuples(st.sampled_from("gh"), st.text(max_size=5)), min_size=1, max_size=30, unique=True))
def test_a_group_is_on_one_side(prepare_params, keys):
    """Rows of one group are never parted, whatever they say."""
    rows = [{"text": text, "label": "a", "group": group} for group, text in keys]
    found = SplitAssigner(rows, prepare_params(**SHARES), 0).side
    for group in "gh":
        assert len({side for side, row in zip(found, rows, strict=True) if row["group"] == group}) <= 1


def test_questions_about_one_context_are_on_one_side(prepare_params):
    """The context is their group."""
    rows = [{"question": f"{n}?", "context": f"about {n % 7}", "answers": []} for n in range(70)]
    found = SplitAssigner(rows, prepare_params(**SHARES), 0).side
    assert len({(row["context"], side) for row, side in zip(rows, found.tolist(), strict=True)}) == 7


def test_a_given_split_is_kept_and_one_that_is_not_given_is_drawn_from_training(prepare_params):
    """A source with train and test: validation comes from its training rows, and test rows stay test rows."""
    rows = [{"text": str(n), "label": "a", "split": "test" if n % 5 == 0 else "train"} for n in range(2000)]
    rows += [{"text": f"more {n}", "split": "corpus"} for n in range(5)]
    found = SplitAssigner(rows, prepare_params(**SHARES), 0).side
    for row, side in zip(rows, found.tolist(), strict=True):
        allowed = {"test": {TEST}, "train": {TRAIN, VALIDATION}, "corpus": {CORPUS}}[row["split"]]
        assert side in allowed
    assert 250 < (found == VALIDATION).sum() < 390


def test_rows_without_anything_to_predict_are_in_no_split_unless_there_are_no_others(prepare_params):
    """Texts beside labelled ones are for the corpus; texts alone are what is predicted."""
    texts = [{"text": f"{n}"} for n in range(50)]
    beside = SplitAssigner([*texts, {"text": "x", "label": "a"}], prepare_params(**SHARES), 0).side
    assert (beside[:50] == NONE).all()
    alone = SplitAssigner(texts, prepare_params(**SHARES), 0).side
    assert {TRAIN, VALIDATION, TEST} == set(alone.tolist())


@given(st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=80), st.integers(1, 40))
def test_each_class_has_its_due(prepare_params, labels, most):
    """Of n rows, a class that is a share s of the side has s * n, within one; more rows are these and others."""
    rows = [{"text": str(n), "label": label} for n, label in enumerate(labels)]
    found = SplitAssigner(rows, prepare_params(validation_share=0.0, test_share=0.0), 0)
    chosen, more = found.chosen(TRAIN, most), found.chosen(TRAIN, most + 1)
    assert len(chosen) == min(most, len(rows))
    assert set(chosen.tolist()) <= set(more.tolist())
    counts = Counter(labels[number] for number in chosen)
    for label, count in Counter(labels).items():
        assert abs(counts[label] - count * len(chosen) / len(rows)) < 1.5


@given(st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=80), st.randoms(), st.integers(0, 9))
def test_a_share_of_rows_is_stratified_and_within_every_larger_one(labels, random, seed):
    """Each class has its due within one, whatever the order; a share has so many rows, in order, and 1 has all."""
    rows = [{"text": str(n), "label": label} for n, label in enumerate(labels)]
    parts = [part(rows, share, seed) for share in (0.1, 0.25, 0.6, 1.0)]
    assert [len(each) for each in parts] == [round(share * len(rows)) for share in (0.1, 0.25, 0.6, 1.0)]
    assert parts[-1] == rows
    numbers = [[int(row["text"]) for row in each] for each in parts]
    assert numbers == [sorted(each) for each in numbers]
    assert all(set(small) <= set(large) for small, large in pairwise(numbers))
    for chosen in parts:
        counts = Counter(row["label"] for row in chosen)
        for label, count in Counter(labels).items():
            assert abs(counts[label] - count * len(chosen) / len(rows)) < 1.5
    mixed = part(random.sample(rows, len(rows)), 0.25, seed)
    assert {row["text"] for row in mixed} == {row["text"] for row in parts[1]}


def test_rows_that_are_left_out_are_replaced(prepare_params):
    """`without` takes rows from the choice, not from their number."""
    found = SplitAssigner(
        labelled([str(n) for n in range(40)]), prepare_params(validation_share=0.0, test_share=0.0), 0
    )
    without = np.zeros(40, dtype=bool)
    without[found.chosen(TRAIN, 10)[:3]] = True
    chosen = found.chosen(TRAIN, 10, without)
    assert len(chosen) == 10
    assert not without[chosen].any()


def test_labels_are_ordered_as_numbers_where_all_are():
    """10 comes after 2; with a word among them they are words."""
    assert ordered(["10", "2", "2"]) == ["2", "10"]
    assert ordered(["10", "2", "x"]) == ["10", "2", "x"]
    assert ordered(["01", "1"]) == ["01", "1"]


def test_the_labels_of_a_row_are_its_label_its_labels_or_its_tags():
    """Whatever a head has to have an output for."""
    rows = [{"label": "a"}, {"labels": ["b", "c"]}, {"tags": ["d"]}, {"text": "x"}]
    assert [labels_of(row) for row in rows] == [["a"], ["b", "c"], ["d"], []]
