from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.prepare.splits import (
    CORPUS,
    NONE,
    TEST,
    TRAIN,
    VALIDATION,
    SplitAssigner,
    labels_of,
    sort_labels,
    stratified_sample,
)

TEXTS = st.lists(st.text(max_size=8), min_size=1, max_size=60, unique=True)
SHARES = {"validation_share": 0.2, "test_share": 0.3}


def labelled(texts):
    """A row for each text, with two labels in turn."""
    return [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate(texts)]


def assign(rows, prepare_params, seed=0, **changes):
    """{text: split} of rows."""
    splits = SplitAssigner(rows, prepare_params(**(SHARES | changes)), seed).split
    return {row["text"]: int(split) for row, split in zip(rows, splits, strict=True)}


@given(TEXTS, TEXTS, st.randoms(), st.integers(0, 9))
def test_rows_that_are_added_move_no_row(prepare_params, texts, more, random, seed):
    """An old row stays in its split, whatever rows are added and in whatever order."""
    old = labelled(texts)
    grown = old + labelled([f"new {text}" for text in more])
    before, after = assign(old, prepare_params, seed), assign(random.sample(grown, len(grown)), prepare_params, seed)
    assert {text: after[text] for text in before} == before


@given(TEXTS, st.integers(0, 3), st.integers(0, 3))
def test_larger_shares_only_take_from_training(prepare_params, texts, validation, test):
    """A test row stays one when the share of test rows grows."""
    rows = labelled(texts)
    few = assign(rows, prepare_params, test_share=0.1 * test, validation_share=0.1)
    many = assign(rows, prepare_params, test_share=0.1 * test + 0.1, validation_share=0.1 * validation)
    assert all(many[text] == TEST for text, split in few.items() if split == TEST)


def test_splits_have_about_their_shares(prepare_params):
    """Of ten thousand rows, within four standard deviations; another seed draws other rows."""
    rows = labelled([str(number) for number in range(10_000)])
    first, other = (Counter(assign(rows, prepare_params, seed).items()) for seed in (0, 1))
    counts = Counter(split for _, split in first)
    assert abs(counts[TEST] - 3000) < 4 * 46
    assert abs(counts[VALIDATION] - 2000) < 4 * 40
    assert first != other


@given(st.lists(st.tuples(st.sampled_from("gh"), st.text(max_size=5)), min_size=1, max_size=30, unique=True))
def test_a_group_is_on_one_side(prepare_params, keys):
    """Rows of one group are in the same split, whatever their texts."""
    rows = [{"text": text, "label": "a", "group": group} for group, text in keys]
    splits = SplitAssigner(rows, prepare_params(**SHARES), 0).split
    for group in "gh":
        assert len({split for split, row in zip(splits, rows, strict=True) if row["group"] == group}) <= 1


def test_questions_about_one_context_are_in_one_split(prepare_params):
    """The context is their group."""
    rows = [{"question": f"{n}?", "context": f"about {n % 7}", "answers": []} for n in range(70)]
    splits = SplitAssigner(rows, prepare_params(**SHARES), 0).split
    assert len({(row["context"], split) for row, split in zip(rows, splits.tolist(), strict=True)}) == 7


def test_preferences_about_one_prompt_are_in_one_split(prepare_params):
    """Pairs of answers to a prompt, and single answers that are good or bad."""
    turns = [[{"role": "user", "content": f"{n % 7}?"}, {"role": "assistant", "content": f"{n}"}] for n in range(70)]
    for rows in (
        [{"messages": pair[:1], "chosen": pair[1:], "rejected": []} for pair in turns],
        [{"messages": pair, "desirable": True} for pair in turns],
    ):
        splits = SplitAssigner(rows, prepare_params(**SHARES), 0).split.tolist()
        assert len({(row["messages"][0]["content"], split) for row, split in zip(rows, splits, strict=True)}) == 7


def test_no_row_is_taken_away_for_a_validation_without_rows(prepare_params):
    """With `validation_rows: 0`, the share of validation rows stays in training, and test rows are the same."""
    rows = labelled([str(number) for number in range(300)])
    some, none = (assign(rows, prepare_params, validation_rows=count) for count in (5, 0))
    assert none == {text: TRAIN if split == VALIDATION else split for text, split in some.items()}
    assert VALIDATION in some.values()


def test_splits_of_the_source_are_kept_and_missing_ones_are_drawn_from_training(prepare_params):
    """In a source with train and test, validation rows are drawn from the training rows."""
    rows = [{"text": str(n), "label": "a", "split": "test" if n % 5 == 0 else "train"} for n in range(2000)]
    rows += [{"text": f"more {n}", "split": "corpus"} for n in range(5)]
    splits = SplitAssigner(rows, prepare_params(**SHARES), 0).split
    for row, split in zip(rows, splits.tolist(), strict=True):
        allowed = {"test": {TEST}, "train": {TRAIN, VALIDATION}, "corpus": {CORPUS}}[row["split"]]
        assert split in allowed
    assert 250 < (splits == VALIDATION).sum() < 390


def test_rows_without_a_target_are_in_no_split_unless_no_row_has_one(prepare_params):
    """Unlabelled texts are for the corpus if other rows have labels; else the texts themselves are the target.

    Labels of rows for pretraining only do not count.
    """
    texts = [{"text": f"{n}"} for n in range(50)]
    with_labels = SplitAssigner([*texts, {"text": "x", "label": "a"}], prepare_params(**SHARES), 0).split
    assert (with_labels[:50] == NONE).all()
    texts_only = SplitAssigner(texts, prepare_params(**SHARES), 0).split
    assert {TRAIN, VALIDATION, TEST} == set(texts_only.tolist())
    replayed = {"text": "x", "label": "a", "split": "corpus"}
    with_replay = SplitAssigner([*texts, replayed], prepare_params(**SHARES), 0).split
    assert with_replay.tolist() == [*texts_only, CORPUS]


@given(st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=80), st.integers(1, 40))
def test_a_selection_is_stratified(prepare_params, labels, limit):
    """Of n rows, a class with a share s of the split has s * n, within one; a higher limit only adds rows."""
    rows = [{"text": str(n), "label": label} for n, label in enumerate(labels)]
    assigner = SplitAssigner(rows, prepare_params(validation_share=0.0, test_share=0.0), 0)
    selected, more = assigner.select(TRAIN, limit), assigner.select(TRAIN, limit + 1)
    assert len(selected) == min(limit, len(rows))
    assert set(selected.tolist()) <= set(more.tolist())
    counts = Counter(labels[number] for number in selected)
    for label, count in Counter(labels).items():
        assert abs(counts[label] - count * len(selected) / len(rows)) < 1.5


@given(st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=80), st.randoms(), st.integers(0, 9))
def test_a_share_of_rows_is_stratified_and_within_every_larger_one(labels, random, seed):
    """In proportion within one row, whatever the order; the rows keep their order, and a share of 1 has all."""
    rows = [{"text": str(n), "label": label} for n, label in enumerate(labels)]
    samples = [stratified_sample(rows, share, seed) for share in (0.1, 0.25, 0.6, 1.0)]
    assert [len(sample) for sample in samples] == [round(share * len(rows)) for share in (0.1, 0.25, 0.6, 1.0)]
    assert samples[-1] == rows
    numbers = [[int(row["text"]) for row in sample] for sample in samples]
    assert numbers == [sorted(ascending) for ascending in numbers]
    assert all(set(small) <= set(large) for small, large in pairwise(numbers))
    for sample in samples:
        counts = Counter(row["label"] for row in sample)
        for label, count in Counter(labels).items():
            assert abs(counts[label] - count * len(sample) / len(rows)) < 1.5
    shuffled = stratified_sample(random.sample(rows, len(rows)), 0.25, seed)
    assert {row["text"] for row in shuffled} == {row["text"] for row in samples[1]}


def test_rows_that_are_left_out_are_replaced(prepare_params):
    """`without` excludes rows but does not change the number that is selected."""
    assigner = SplitAssigner(
        labelled([str(n) for n in range(40)]), prepare_params(validation_share=0.0, test_share=0.0), 0
    )
    without = np.zeros(40, dtype=bool)
    without[assigner.select(TRAIN, 10)[:3]] = True
    selected = assigner.select(TRAIN, 10, without)
    assert len(selected) == 10
    assert not without[selected].any()


def test_labels_are_sorted_as_numbers_if_all_are_numbers():
    """10 comes after 2, unless one of the labels is another text."""
    assert sort_labels(["10", "2", "2"]) == ["2", "10"]
    assert sort_labels(["10", "2", "x"]) == ["10", "2", "x"]
    assert sort_labels(["01", "1"]) == ["01", "1"]


def test_the_labels_of_a_row_are_its_label_its_labels_or_its_tags():
    """Those for which a head needs an output."""
    rows = [{"label": "a"}, {"labels": ["b", "c"]}, {"tags": ["d"]}, {"text": "x"}]
    assert [labels_of(row) for row in rows] == [["a"], ["b", "c"], ["d"], []]
