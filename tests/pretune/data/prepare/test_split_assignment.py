from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.prepare.leaks import DuplicateIndex, Passages
from pretune.data.prepare.split_assignment import SplitAssignment

SPLITS = ("train", "validation", "test")


def sentence(number, words=30):
    """A text of random words, unlike that of any other number."""
    draw = np.random.default_rng(number)
    return " ".join("".join(draw.choice(list("abcdefghijklmnop"), 6)) for _ in range(words))


@pytest.fixture
def assign(snapshot, prepare_params):
    """A function that assigns rows: {split: their numbers}, and the counts of leaks."""

    def assign_rows(rows, **changes):
        assignment = SplitAssignment(snapshot(rows), prepare_params(**changes), 0)
        numbers = {
            split: [int(row["origin"].removeprefix("made:")) for row in assignment.rows_of(split)]
            for split in (*SPLITS, "corpus")
        }
        return numbers, assignment.leaks

    return assign_rows


@given(st.lists(st.sampled_from("ab-"), min_size=1, max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_no_row_is_in_two_splits_and_none_that_is_held_out_in_the_corpus(assign, labels, train, test):
    """Splits have at most the requested sizes; pretraining can use every row that is not held out."""
    rows = [{"text": sentence(n)} | ({"label": label} if label != "-" else {}) for n, label in enumerate(labels)]
    numbers, _ = assign(rows, train_rows=train, test_rows=test, validation_rows=2)
    for first, second in combinations(SPLITS, 2):
        assert not set(numbers[first]) & set(numbers[second])
    held_out = set(numbers["test"]) | set(numbers["validation"])
    assert set(numbers["corpus"]) == set(range(len(rows))) - held_out
    assert len(numbers["train"]) <= train
    assert len(numbers["test"]) <= test


def planted(kind):
    """A test row, and one of many other rows that leaks it."""
    rows = [{"text": sentence(n), "label": "ab"[n % 2], "split": "train"} for n in range(40)]
    secret = sentence(1000)
    test = {"text": secret, "label": "a", "split": "test", "group": "patient 7"}
    leak = {
        "exact": {"text": secret, "label": "a", "split": "train"},
        "near": {"text": secret.rsplit(" ", 1)[0] + " other", "label": "a", "split": "train"},
        "group": {"text": sentence(2000), "label": "a", "split": "train", "group": "patient 7"},
        "passage": {"text": f"{sentence(3000)} {' '.join(secret.split()[5:20])} {sentence(3001)}", "split": "corpus"},
    }[kind]
    return [*rows, leak, test]


@pytest.mark.parametrize("kind", ["exact", "near", "group", "passage"])
@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_a_planted_leak_is_stopped_and_reported(assign, kind, held_out):
    """A copy, a near copy, a row of the same group, a passage in a longer text: in no split and not in the corpus."""
    rows = planted(kind)
    rows[-1]["split"] = held_out
    numbers, leaks = assign(rows, test_share=0.0, validation_share=0.0)
    assert numbers[held_out] == [41]
    assert 40 not in {*numbers["train"], *numbers["corpus"]}
    assert numbers["train"] == numbers["corpus"] == list(range(40))
    assert {name: count for name, count in leaks.items() if count} == {kind: 1}


def test_without_the_checks_leaks_stay(assign):
    """With similarity 1 and without decontamination, a near copy trains and a passage is in the corpus."""
    off = {"test_share": 0.0, "validation_share": 0.0, "similarity": 1.0, "decontaminate": 0}
    assert 40 in assign(planted("near"), **off)[0]["train"]
    assert 40 in assign(planted("passage"), **off)[0]["corpus"]


def test_a_short_test_text_is_found_as_a_whole(snapshot):
    """A text shorter than a passage: only the same text counts, whatever its case and white space."""
    passages = Passages([{"text": "A short one"}], 50)
    assert passages.shared([{"text": "a  SHORT one"}, {"text": "a short one and more"}]).tolist() == [True, False]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(10, 60))
def test_passages_are_found_exactly(start, length, shortest):
    """From that number of consecutive characters on, wherever they are."""
    secret = "".join(map(chr, range(0x4E00, 0x4E00 + 120)))
    text = "x" * 30 + secret[start : start + length] + "y" * 30
    assert Passages([{"text": secret}], shortest).shared([{"text": text}]).tolist() == [length >= shortest]


def test_duplicates_are_found_in_any_row(snapshot):
    """Each near copy is found, and no other row."""
    rows = [{"text": sentence(n)} for n in range(30)]
    index = DuplicateIndex(rows[:10], 0.8)
    others = [{"text": sentence(n).replace(sentence(n).split()[3], "changed")} for n in range(30)]
    assert index.near(others).tolist() == [True] * 10 + [False] * 20
    assert index.exact(rows).tolist() == [True] * 10 + [False] * 20
    assert index.near([]).tolist() == []


def test_two_texts_leak_only_together():
    """A question about a passage of a test row is no leak of it; nearly the same question about it is one."""
    passage = "the harbour opens at dawn and closes before noon, but never on a Sunday or in a storm"
    index = DuplicateIndex([{"text": "When does it open?", "pair": passage}], 0.8)
    rows = [
        {"text": "Who is the captain of the port?", "pair": passage},
        {"text": "When does it open?", "pair": passage + "!"},
        {"text": "When does it open?"},
        {"text": passage},
        {"image": b""},
    ]
    assert index.near(rows).tolist() == [False, True, False, False, False]


def test_images_and_numbers_are_compared_by_their_content(assign):
    """With the same bytes in training and test, the training row is left out."""
    rows = [{"image": bytes([n]), "label": "ab"[n % 2], "split": "train"} for n in range(6)]
    numbers, leaks = assign(
        [*rows, {"image": bytes([3]), "label": "a", "split": "test"}], test_share=0.0, validation_share=0.0
    )
    assert (numbers["train"], numbers["test"], leaks["exact"]) == ([0, 1, 2, 4, 5], [6], 1)


def test_a_context_is_read_once_however_many_questions_are_asked_about_it(snapshot, prepare_params):
    """The corpus holds texts, not rows."""
    rows = [{"question": f"{n}?", "context": f"about {n // 5}", "answers": []} for n in range(20)]
    assignment = SplitAssignment(snapshot(rows), prepare_params(test_share=0.0, validation_share=0.0), 0)
    assert list(assignment.documents()) == [f"about {n}" for n in range(4)]


@given(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_a_smaller_share_of_the_corpus_is_part_of_a_larger_one(assign, shares):
    """Whatever the shares: the texts of the smaller one are in the larger one, all in 1, and splits stay the same."""
    rows = [{"text": sentence(n, 3), "label": "ab"[n % 2]} for n in range(50)]
    whole, _ = assign(rows)
    smaller, larger = (assign(rows, corpus_share=share)[0] for share in sorted(shares))
    assert set(smaller["corpus"]) <= set(larger["corpus"]) <= set(whole["corpus"])
    for split in SPLITS:
        assert smaller[split] == larger[split] == whole[split]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_of_the_corpus_has_its_size_within_chance(assign, share):
    """The number of texts is binomial: within four standard deviations of the share, without order."""
    rows = [{"text": sentence(n, 3), "split": "corpus"} for n in range(600)]
    kept = assign(rows, corpus_share=share)[0]["corpus"]
    assert abs(len(kept) - 600 * share) < 4 * (600 * share * (1 - share)) ** 0.5
    assert kept == sorted(kept)


def test_another_seed_leaves_out_other_texts_of_the_corpus(snapshot, prepare_params):
    """Which texts are left out depends on the seed at the top, as the splits do."""
    made = snapshot([{"text": sentence(n, 3), "split": "corpus"} for n in range(60)])
    first, second = (SplitAssignment(made, prepare_params(corpus_share=0.5), seed) for seed in (0, 1))
    assert list(first.corpus) != list(second.corpus)


def test_questions_about_one_context_are_in_the_share_together(assign):
    """A text comes whole or not at all, however many rows it has."""
    rows = [{"context": sentence(n // 3), "question": f"number {n}?", "split": "corpus"} for n in range(90)]
    kept = assign(rows, corpus_share=0.5)[0]["corpus"]
    assert {n // 3 for n in kept} == {n // 3 for n in range(90) if all(3 * (n // 3) + k in kept for k in range(3))}
    assert 0 < len(kept) < 90
