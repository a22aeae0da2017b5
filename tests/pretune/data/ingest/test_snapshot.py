from __future__ import annotations

import io
import json
import re
import weakref
from itertools import count, islice
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretune.config.data import Column
from pretune.data import rows, workers
from pretune.data.ingest.columns import OWN
from pretune.data.ingest.snapshot import Snapshot
from pretune.data.ingest.sources.record import Record
from pretune.errors import DataError, ParamsError

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)


@pytest.fixture
def made(tmp_path_factory, ingest_params):
    """A function that makes a snapshot of values or (split, values): its rows, quarantine, duplicates and counts."""

    def make(*entries, clean=None, **changes):
        folder = tmp_path_factory.mktemp("snapshot") / "raw"
        params = ingest_params(clean={"max_bad_rows": 100} | (clean or {}), **changes)
        pairs = [entry if isinstance(entry, tuple) else (None, entry) for entry in entries]
        records = ((split, Record(f"f:{number}", values)) for number, (split, values) in enumerate(pairs))
        Snapshot(folder, params).write(records)
        lines = {
            name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            for name in ("quarantine", "duplicates")
        }
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        assert sorted(path.name for path in folder.iterdir()) == [
            "counts.json", "duplicates.jsonl", "quarantine.jsonl", "rows.parquet",
        ]  # fmt: skip
        return rows.read(folder / "rows.parquet"), lines["quarantine"], lines["duplicates"], counts

    return make


def reasons(made, *values, **changes):
    """The reasons for which rows are rejected, after one good row."""
    kept, quarantine, _, counts = made({"text": "good"}, *values, **changes)
    assert len(kept) + len(quarantine) == counts["read"]
    return [line["reason"] for line in quarantine]


def test_the_schema_knows_the_columns_of_rows():
    """`ingest.columns` can name all of them but the origin and the part of a mixture."""
    assert set(get_args(Column)) == set(rows.COLUMNS) - set(OWN)


@given(values=st.lists(st.fixed_dictionaries({"text": TEXT}, optional={"label": TEXT}), min_size=1, max_size=12))
def test_every_row_is_kept_rejected_or_a_duplicate(made, values):
    """No row is dropped silently: the counts add up, and each origin is in exactly one place."""
    kept, quarantine, duplicates, counts = made(*values)
    origins = [row["origin"] for part in (kept, quarantine, duplicates) for row in part]
    assert sorted(origins) == sorted(f"f:{number}" for number in range(len(values)))
    assert counts["read"] == counts["rows"] + counts["quarantined"] + counts["exact"] + counts["near"]


@given(values=st.lists(TEXT, min_size=1, max_size=12))
def test_texts_stay_as_they_are_but_for_surrounding_spaces(made, values):
    """There is no normalization by default; each text comes once, in the order of its first occurrence."""
    kept, *_ = made(*({"text": text} for text in values), clean={"duplicates": "exact"})
    assert [row["text"] for row in kept] == list(dict.fromkeys(text.strip() for text in values))


def test_na_is_a_word_unless_the_user_says_otherwise(made):
    """An empty value is missing; a missing label leaves the row unlabelled."""
    values = ({"text": "NA", "label": "NA"}, {"text": "b", "label": ""})
    kept, *_ = made(*values)
    assert [row.get("label") for row in kept] == ["NA", None]
    kept, quarantine, *_ = made(*values, missing=["NA"])
    assert [row["text"] for row in kept] == ["b"]
    assert quarantine[0]["reason"].startswith("no text")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"txt": "x"}, "no text: the columns are txt"),
        ({"text": 5}, "text: no text: 5"),
        ({"text": "a\0b"}, "text: a control character: U+0000"),
        ({"text": "a\x07"}, "text: a control character: U+0007"),
        ({"text": "caf\udce9"}, "text: not in the encoding of ingest.encoding: byte 0xe9"),
        ({"text": "x \ud800"}, "text: half a surrogate pair, which is no character"),
        ({"text": "x", "label": 1.5}, "label: neither a word nor a whole number: 1.5"),
        ({"text": "x", "score": "high"}, "score: no number: 'high'"),
        ({"text": "x", "score": "nan"}, "score: not finite: 'nan'"),
        ({"text": "x", "label": "caf\udce9"}, "label: not in the encoding of ingest.encoding: byte 0xe9"),
        ({"text": "x", "labels": ["a\0"]}, "labels: a control character: U+0000"),
        ({"text": "x", "labels": ["a", ""]}, "labels: no list of words or whole numbers: ['a', '']"),
        ({"words": []}, "words: none"),
        ({"words": ["a", "b"], "tags": ["X"]}, "tags: not one for each word: 1 for 2"),
        ({"question": "q?"}, "a question needs a context, and a context a question"),
        (
            {"question": "q?", "context": "so he", "answers": [{"text": "she", "answer_start": 3}]},
            "answers: not in the context where it should be: 'she' at character 3",
        ),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages: an unknown role: 'boss'"),
        ({"image": b"no image"}, "image: no image that can be opened: no known image format"),
        ({"text": "x", "split": "half"}, "split: none of train, validation, test, corpus: 'half'"),
    ],
)
def test_a_bad_row_is_rejected_with_its_reason(made, values, reason):
    """Each kind of mistake has its own reason."""
    assert reasons(made, values) == [reason]


def test_labels_of_another_type_or_without_a_name_are_rejected(made):
    """1 after "pos" is no label; nor is one that `ingest.labels` does not name."""
    values = [{"text": str(n), "label": label} for n, label in enumerate(["pos", 1, "neg"])]
    assert reasons(made, *values) == ["label: a number, and those before it are not: 1"]
    assert reasons(made, *values[::2], labels={"pos": "good"}) == ["label: not in ingest.labels: 'neg'"]


def test_length_and_quality_and_normal_form_are_switches(made):
    """Texts that are too short or too long are rejected; Unicode and white space are normalized on request."""
    assert reasons(made, {"text": "abc"}, clean={"min_characters": 4}) == ["text: shorter than 4 characters"]
    assert reasons(made, {"text": "abcde"}, clean={"max_characters": 4}) == ["text: longer than 4 characters"]
    assert (
        made({"text": "e\u0301  x\n\n\n\ny"}, clean={"unicode": "nfc", "whitespace": True})[0][0]["text"]
        == "\u00e9 x\n\ny"
    )
    assert made({"text": "\uff21 \ufb01"}, clean={"unicode": "nfkc"})[0][0]["text"] == "A fi"


def test_too_many_bad_rows_stop_the_stage_with_a_summary(made):
    """It counts them by reason, with the first places; a row of each reason is enough to find the others."""
    values = [{"text": ""}] * 5 + [{"text": "a\0"}] * 2 + [{"text": f"good {n}"} for n in range(4)]
    with pytest.raises(DataError) as caught:
        made(*values, clean={"max_bad_rows": 6})
    assert caught.value.problems == [
        "5 x no text (f:0, f:1, f:2, …)",
        "2 x text: a control character, as U+0000 (f:5, f:6)",
        "7 of 11 rows are bad; ingest.clean.max_bad_rows allows 6",
    ]
    assert "raise ingest.clean.max_bad_rows" in caught.value.next_step
    assert made(*values, clean={"max_bad_rows": 7})[3]["quarantined"] == 7
    assert made(*values, clean={"max_bad_rows": 0.64})[3]["quarantined"] == 7
    with pytest.raises(DataError, match=r"allows 0\.54 of them"):
        made(*values, clean={"max_bad_rows": 0.54})


def test_bad_rows_within_the_limit_are_a_warning(made):
    """With reasons, numbers and places; the counts keep it."""
    *_, counts = made({"text": "good"}, {"text": "a\7"}, {"text": ""}, {"text": "b\7"})
    assert counts["warnings"] == [
        "3 of 4 rows are bad and left out: 2 x text: a control character, as U+0007 (f:1, f:3); 1 x no text (f:2)"
    ]


@pytest.mark.parametrize(
    ("values", "setting"),
    [
        ({"text": 5}, "ingest.columns"),
        ({"text": "x", "split": "half"}, "ingest.columns, or leave this column out: ingest.columns: {split: null}"),
        ({"text": "x", "label": 0.5}, "ingest.columns: {score: COLUMN} for numbers to predict"),
        ({"text": "caf\udce9"}, "ingest.encoding"),
        ({"text": "x", "label": "neg"}, "ingest.labels"),
        ({"text": "x" * 2_000_000}, "ingest.clean.max_characters"),
    ],
)
def test_where_nearly_all_rows_are_bad_the_setting_is_named(made, values, setting):
    """Nobody is told to leave out all rows, whatever the limit allows."""
    with pytest.raises(DataError) as caught:
        made(*[values] * 20, labels={"pos": "good"})
    assert f"correct {setting}" in caught.value.next_step
    assert "raise" not in caught.value.next_step


def test_a_mapped_column_that_a_file_lacks_is_an_error(made):
    """With the nearest name, after the first records of the file, for a name or for a number."""
    table = ({"text": f"text {n}", "stars": n} for n in count())  # would never end
    with pytest.raises(DataError) as caught:
        made(*islice(table, 1500), source="f", columns={"text": "text", "label": "star"})
    assert caught.value.problems == [
        "f has no column star (did you mean stars?), which ingest.columns names for label",
        "its columns are text, stars",
    ]
    with pytest.raises(DataError, match="no column 2") as caught:
        made({"text": "a"}, columns={"label": 2})
    assert "ingest.header: false" in caught.value.next_step
    with pytest.raises(DataError, match="f has no column text; its columns are txt, stars"):
        made({"txt": "a", "stars": 1}, source="f")


def test_records_that_lack_a_mapped_column_are_no_error_if_others_have_it(made):
    """An object may leave out what it has not; a document of the split corpus has no label, and is called text."""
    kept, *_ = made({"text": "a"}, {"text": "b", "stars": 1}, columns={"label": "stars"})
    assert [row.get("label") for row in kept] == [None, "1"]
    kept, *_ = made(
        {"review": "a", "stars": 1}, ("corpus", {"text": "b"}), columns={"text": "review", "label": "stars"}
    )
    assert [(row["text"], row.get("label")) for row in kept] == [("a", "1"), ("b", None)]


def test_a_file_whose_rows_have_no_label_is_a_warning_if_others_have_one(tmp_path, ingest_params):
    """With the columns that it has instead."""
    snapshot = Snapshot(tmp_path / "raw", ingest_params(source="*.csv"))
    records = [Record(f"a.csv:{n}", {"text": f"first {n}", "label": n % 2}) for n in range(3)]
    records += [Record(f"b.csv:{n}", {"text": f"second {n}", "sentiment": n % 2}) for n in range(2)]
    document = ("corpus", Record("c.txt:1", {"text": "a document"}))
    counts = snapshot.write([*((None, record) for record in records), document])
    assert counts["files"] == {"a.csv": {"rows": 3, "labelled": 3}, "b.csv": {"rows": 2, "labelled": 0}}
    assert counts["warnings"] == ["b.csv: 2 of 2 rows have no label; it has the columns sentiment, which are not used"]
    assert counts["columns"] == {"text": 2, "text label": 3}


def test_what_a_reader_noticed_is_a_warning(tmp_path, ingest_params):
    """Once, with the number of records and the first places; the details of a problem do not split its reason."""
    records = [Record(f"a.csv:{n}", {"text": f"text {n}"}, "", "runs over several lines") for n in range(5)]
    records += [Record(f"a.csv:{n}", {}, f"more fields than columns: {n}") for n in (5, 6)]
    snapshot = Snapshot(tmp_path / "raw", ingest_params(source="a.csv", clean={"max_bad_rows": 2}))
    counts = snapshot.write((None, record) for record in records)
    assert counts["reasons"] == {"more fields than columns": 2}
    assert counts["warnings"] == [
        "2 of 7 rows are bad and left out: 2 x more fields than columns, as 5 (a.csv:5, a.csv:6)",
        "5 x runs over several lines (a.csv:0, a.csv:1, a.csv:2, …)",
    ]


def test_no_control_character_of_the_data_reaches_the_terminal(made):
    """A table in UTF-16 that is read as another encoding has such column names and values."""
    with pytest.raises(DataError, match=r"its columns are \\udcfft\\x00e"):
        made({"\udcfft\0e": "x"})
    counts = made({"text": "good", "\udcff\0": "x", "messages": [{"role": "\7", "content": ""}]}, {"text": "a"})[3]
    assert list(counts["left_out"]) == ["\\udcff\\x00", "text"]
    assert all(line.isprintable() for line in counts["warnings"])


def test_rows_of_which_most_repeat_others_are_a_warning(made):
    """The column may be the wrong one."""
    assert made(*[{"text": str(n % 2)} for n in range(5)])[3]["warnings"] == [
        "3 of 5 rows repeat others and are left out"
    ]
    assert made(*[{"text": str(n % 2)} for n in range(4)])[3]["warnings"] == []


def test_columns_that_are_not_used_are_counted(made):
    """By the rows that hold a value; a part of a column by its path, another key of a message too."""
    values = [{"text": "a", "title": "", "more": {"x": "b", "y": 1}}, {"text": "c", "title": "d", "id": float("nan")}]
    assert made(*values, columns={"label": "more.y"})[3]["left_out"] == {"more.x": 1, "title": 1}
    turns = [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": "b"}]
    assert made({"messages": turns})[3]["left_out"] == {"messages.name": 1}


def test_a_source_without_rows_is_an_error(made):
    """Its message names the source."""
    with pytest.raises(DataError, match="holds no rows"):
        made()


def test_of_equal_rows_the_one_with_a_label_is_kept_and_conflicts_are_logged(made):
    """The log names the row that is kept, and both labels."""
    kept, _, duplicates, counts = made(
        {"text": "same"}, {"text": "same", "label": "x"}, {"text": "same", "label": "y"}, {"text": "other"}
    )
    assert [(row["origin"], row.get("label")) for row in kept] == [("f:1", "x"), ("f:3", None)]
    assert duplicates == [
        {"origin": "f:0", "kind": "exact", "of": "f:1", "labels": [None, "x"]},
        {"origin": "f:2", "kind": "exact", "of": "f:1", "labels": ["y", "x"]},
    ]
    assert (counts["exact"], counts["conflicting"]) == (2, 1)


def test_of_equal_rows_in_two_splits_the_test_row_is_kept(made):
    """The test set of a benchmark stays complete."""
    row = {"text": "the same text in both", "label": "x"}
    kept, *_ = made(("train", row), ("test", row))
    assert [(kept_row["split"], kept_row["origin"]) for kept_row in kept] == [("test", "f:1")]


def test_the_same_context_with_other_questions_is_no_duplicate(made):
    """Nor is one text with another target; `duplicates: keep` keeps all rows."""
    context = "a long context " * 20
    values = [{"question": question, "context": context, "answers": []} for question in ("who?", "why?")]
    assert len(made(*values)[0]) == 2
    assert len(made({"text": "a", "target": "b"}, {"text": "a", "target": "c"})[0]) == 2
    assert len(made({"text": "a"}, {"text": "a"}, clean={"duplicates": "keep"})[0]) == 2


def test_personal_data_are_replaced_on_request(made):
    """By their kind, and counted."""
    text = "write to a.b@example.org or +49 30 1234567, server 192.168.0.1"
    kept, *_, counts = made({"text": text}, clean={"scrub": ["email", "phone", "ip"]})
    assert kept[0]["text"] == "write to <EMAIL> or <PHONE>, server <IP>"
    assert counts["scrubbed"] == {"email": 1, "phone": 1, "ip": 1}
    assert made({"text": text})[0][0]["text"] == text


def test_images_become_png_files_of_the_same_pixels(made):
    """From any format and from arrays; grey stays grey."""
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    bmp = io.BytesIO()
    Image.fromarray(pixels).save(bmp, "BMP")
    kept, *_ = made({"image": bmp.getvalue()}, {"image": pixels + 1})
    for row, expected in zip(kept, (pixels, pixels + 1), strict=True):
        image = Image.open(io.BytesIO(row["image"]))
        assert (image.format, image.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(image), expected)


def test_numbers_have_one_length_and_their_names(tmp_path, ingest_params):
    """A row with fewer numbers is bad; the names are those of the columns."""
    snapshot = Snapshot(tmp_path / "raw", ingest_params(columns={"x": ["a", "b"]}, clean={"max_bad_rows": 1}))
    counts = snapshot.write((None, Record(f"f:{n}", values)) for n, values in enumerate([{"a": 1, "b": 2}, {"a": 1}]))
    assert snapshot.names == {"x": ["a", "b"]}
    assert counts["reasons"] == {"x: a number is missing": 1}


def test_the_quarantine_has_the_origin_and_the_beginning_of_a_bad_row(made):
    """A person can find the row and see its problem."""
    _, (line,), *_ = made({"text": "good"}, {"text": "x" * 500 + "\0"})
    assert line["origin"] == "f:1"
    assert re.match(r'^\{"text": "x{100}', line["excerpt"])
    assert len(line["excerpt"]) == 200


def test_rows_in_other_languages_are_rejected_with_their_language(made):
    """Both texts of a translation are identified; texts that are too short are kept."""
    english, german = "A man is walking his dog in the park.", "Ein Mann geht mit seinem Hund spazieren."
    values = [{"text": english}, {"text": german}, {"text": "ok"}, {"text": english, "target": german}]
    kept, quarantine, _, counts = made(*values, clean={"languages": ["en"]})
    assert [row["text"] for row in kept] == [english, "ok"]
    assert [line["origin"] for line in quarantine] == ["f:1", "f:3"]
    assert counts["reasons"] == {"language: de": 2}
    kept, quarantine, _, _ = made(*values, clean={"languages": ["de", "en"]})
    assert (len(kept), quarantine) == (4, [])


def test_an_unknown_language_is_an_error_before_any_row_is_read(made):
    """The message lists all unknown codes, and the next step all known ones."""
    with pytest.raises(ParamsError) as caught:
        made({"text": "x"}, clean={"languages": ["en", "english", "xx"]})
    assert [problem.split("'")[1] for problem in caught.value.problems] == ["english", "xx"]
    assert " en " in caught.value.next_step


def test_records_are_released_once_they_are_processed(tmp_path, monkeypatch, ingest_params):
    """Whatever their number, a few chunks of them are in memory at once."""
    monkeypatch.setattr(workers, "CHUNK", 16)
    monkeypatch.setattr(rows, "CHUNK", 16)
    created, released, peak = [], [], [0]

    def records():
        for number in range(2000):
            record = Record(f"f:{number}", {"text": f"text {number}"})
            created.append(weakref.ref(record, released.append))
            peak[0] = max(peak[0], len(created) - len(released))
            yield None, record
            del record

    Snapshot(tmp_path / "raw", ingest_params()).write(records())
    assert 0 < peak[0] <= 16 * 8
