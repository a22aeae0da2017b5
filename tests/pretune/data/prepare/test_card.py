from __future__ import annotations

import json
import re

import numpy as np
import pytest

from pretune.data import languages, rows
from pretune.data.prepare import card, labels


def facts(**changes):
    """What `prepare` knows of a small set."""
    split = {"rows": 2, "labels": {"a": 1, "b|c": 1}, "lengths": {"16": 2}, "scripts": {"latin": 1.0}}
    split |= {"languages": {"en": 0.9, "und": 0.1}, "turns": {}, "conversations": {}}
    raw = {"read": 5, "quarantined": 1, "reasons": {"no text": 1}, "exact": 1, "near": 1, "conflicting": 0, "rows": 2}
    raw |= {"labelled": 2, "files": {}, "left_out": {"title": 1}, "warnings": ["1 of 5 rows is bad"], "scrubbed": {}}
    return {
        "source": "x.csv", "licence": "CC0", "md5": "0" * 32, "raw": raw, "splits": {"train": split},
        "leaks": {"near": 1}, "problems": ["test has no row of a"], "suspects": [], "corpus": {"tokens": 7},
        "samples": [{"text": "<script>alert(1)</script>", "origin": "x.csv:2"}],
    } | changes  # fmt: skip


def test_a_card_lists_rows_read_and_rows_kept(tmp_path):
    """The same in Markdown, HTML and JSON."""
    text = card.write(tmp_path / "data", facts())
    assert (tmp_path / "data" / "card.md").read_text(encoding="utf-8") == text
    page = (tmp_path / "data" / "card.html").read_text(encoding="utf-8")
    for words in (
        "title",
        "1 of 5 rows is bad",
        "rows read",
        "no text",
        "near duplicates",
        "CC0",
        "test has no row of a",
        "x.csv:2",
        "und",
    ):
        assert words in text
        assert words in page
    assert json.loads((tmp_path / "data" / "card.json").read_text(encoding="utf-8")) == facts()


def test_the_content_of_rows_is_escaped(tmp_path):
    """No tag of a row reaches the page, and no bar of a label splits a cell of the Markdown table."""
    text = card.write(tmp_path / "data", facts())
    page = (tmp_path / "data" / "card.html").read_text(encoding="utf-8")
    assert "<script>" not in text + page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "b\\|c" in text


def test_files_are_listed_where_there_are_several(tmp_path):
    """Those without labels first, and no more than a person reads."""
    files = {f"{n}.csv": {"rows": 9, "labelled": 9 * (n != 70)} for n in range(80)}
    text = card.write(tmp_path / "data", facts(raw=facts()["raw"] | {"files": files}))
    assert "| 70.csv | 9 | 0 |\n| 0.csv | 9 | 9 |" in text
    assert "30 more files" in text
    assert "## Files" not in card.write(tmp_path / "one", facts())


def test_the_page_of_a_card_stands_alone(tmp_path):
    """It asks for no other file, and is the same each time."""
    pages = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        card.write(folder, facts(problems=["<img src='http://example.com'>"]))
        pages.append((folder / "card.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"|<script|<img|url\(|@import', pages[0]) == []


def test_lengths_scripts_and_languages_are_those_of_the_texts():
    """By upper bound; scripts as shares of letters, languages as shares of texts, each from one in a hundred on."""
    facts = card.facts_of([{"text": "abcd"}, {"text": "商务大床" * 10}, {"x": [1.0]}])
    assert facts == {
        "lengths": {"16": 1, "64": 1},
        "scripts": {"chinese": 0.909, "latin": 0.091},
        "languages": {"und": 1.0},
        "turns": {},
        "conversations": {},
    }


def test_conversations_are_described_by_turns_roles_tools_and_reasoning():
    """The chosen answer of a preference is part of its conversation."""
    asked, answered = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    facts = card.facts_of([
        {"messages": [{"role": "system", "content": "s"}, *[asked, answered | {"reasoning": "r"}] * 3], "tools": "[]"},
        {"messages": [asked], "chosen": [answered], "rejected": [answered]},
        {"text": "t"},
    ])  # fmt: skip
    assert facts["turns"] == {"1": 1, "4": 1}
    assert facts["conversations"] == {
        "conversations": 2, "conversations with reasoning": 1, "conversations with tools": 1,
        "messages of assistant": 4, "messages of system": 1, "messages of user": 4,
    }  # fmt: skip


def test_languages_are_those_of_the_first_rows_alone(monkeypatch):
    """What it costs does not grow with the data; both sides of a translation count."""
    monkeypatch.setattr(card, "IDENTIFIED", 1)
    pair = {"text": "A man is walking his dog in the park.", "target": "Ein Mann geht mit seinem Hund spazieren."}
    assert card.facts_of([pair, {"text": "Un homme promène son chien."}])["languages"] == {"de": 0.5, "en": 0.5}
    assert card.facts_of([{"x": [1.0]}])["languages"] == {}


def test_a_difference_counts_rows_by_their_content(tmp_path):
    """Order and origin do not count; a changed label is shown with the old and the new one."""
    rows.write(tmp_path / "a.parquet", [{"text": t, "label": "x", "origin": t} for t in "abcd"])
    rows.write(tmp_path / "b.parquet", [{"text": t, "label": "y" if t == "c" else "x"} for t in "edcb"])
    difference = card.difference(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert difference == {"rows": [4, 4], "added": 1, "removed": 1, "relabelled": {"x → y": 1}}


def test_imbalance_and_missing_classes_are_reported():
    """Imbalance from ten to one on; a class that a split lacks, by its name."""
    counts = {"train": {"a": 50, "b": 5, "c": 20}, "validation": {}, "test": {"a": 3, "c": 1}}
    assert labels.problems(counts) == ["imbalance: 50 training rows of a, 5 of b", "test has no row of b"]
    assert labels.problems({"train": {"a": 5, "b": 4}, "validation": {}, "test": {"a": 1, "b": 1}}) == []


def test_wrong_labels_are_found_among_right_ones():
    """Of a hundred rows of two kinds that are easy to tell apart, the three that were swapped come first."""
    draw = np.random.default_rng(0)
    vocabulary = {"sea": "waves salt harbour tide anchor ship", "kitchen": "flour oven butter spoon kettle bread"}
    examples = [
        {"text": " ".join(draw.choice(words.split(), 5)), "label": label, "origin": f"{label}:{n}"}
        for n in range(50)
        for label, words in vocabulary.items()
    ]
    for number in (4, 31, 70):
        examples[number]["label"] = "sea" if examples[number]["label"] == "kitchen" else "kitchen"
    suspects = labels.suspects(examples)
    assert {suspect["origin"] for suspect in suspects[:3]} == {examples[number]["origin"] for number in (4, 31, 70)}
    assert suspects == labels.suspects(examples)


@pytest.mark.parametrize("examples", [[], [{"text": "a", "label": "x"}], [{"image": b"", "label": "x"}] * 20])
def test_too_little_to_judge_by_gives_no_suspects(examples):
    """Few rows, one class, no text."""
    assert labels.suspects(examples) == []


@pytest.mark.parametrize(
    ("text", "script"),
    [("a ship", "latin"), ("корабль", "cyrillic"), ("海上的船", "chinese"), ("ひカー", "japanese"), ("7 + 7", "")],
)
def test_the_script_of_a_text_is_that_of_most_letters(text, script):
    """By the same names in the card and in the slices of an evaluation; none for a text without letters."""
    assert languages.main_script(text) == script
    assert {languages.script(letter) for letter in text if letter.isalpha()} == ({script} if script else set())
