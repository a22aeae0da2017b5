from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import tables
from pretune.errors import DataError

ROW = st.fixed_dictionaries({"text": st.sampled_from("abc")}, optional={"label": st.sampled_from("xy")})


@given(st.lists(ROW))
def test_distinct_keeps_one_row_of_each_text(rows):
    """Each text once, in the order of first sight, with a label if any copy has one."""
    kept = tables.distinct(rows)
    assert [row["text"] for row in kept] == list(dict.fromkeys(row["text"] for row in rows))
    for row in kept:
        labels = [each["label"] for each in rows if each["text"] == row["text"] and "label" in each]
        assert row.get("label") == (labels[0] if labels else None)


@pytest.fixture
def table(tmp_path):
    """A function that writes a file of the given name and reads it as a table."""

    def read(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tables.read(path)

    return read


def problems(table, name, content):
    """The problems that reading such a file is refused with."""
    with pytest.raises(DataError) as caught:
        table(name, content)
    return caught.value.problems


def test_a_csv_gives_texts_and_labels(table):
    """Quoted line ends stay in the text, an empty label is no label, white space around a text goes."""
    assert table("a.csv", 'label,text\nx," one\ntwo "\n,three\n') == [
        {"text": "one\ntwo", "label": "x", "origin": "a.csv:3"},
        {"text": "three", "origin": "a.csv:4"},
    ]


def test_a_csv_from_a_spreadsheet_may_begin_with_a_mark(table):
    """The byte order mark that spreadsheets write is not part of the first column's name."""
    assert [row["text"] for row in table("a.csv", b"\xef\xbb\xbftext\nhello\n")] == ["hello"]


def test_a_jsonl_may_begin_with_a_mark_too(table):
    """The byte order mark is no mistake in a .jsonl either."""
    assert [row["text"] for row in table("a.jsonl", b'\xef\xbb\xbf{"text": "hello"}\n')] == ["hello"]


def test_a_jsonl_gives_texts_and_labels(table):
    """Empty lines count as lines but hold nothing; a number is a label like any other."""
    assert table("a.jsonl", '{"text": "one", "label": 3}\n\n{"text": "two"}\n') == [
        {"text": "one", "label": "3", "origin": "a.jsonl:1"},
        {"text": "two", "origin": "a.jsonl:3"},
    ]


def test_every_malformed_row_is_told_with_its_line(table):
    """No text, not an object, not JSON: all of them at once, by file and line."""
    rows = ['{"text": "fine"}', '{"txt": "x"}', "[1]", "{", '{"text": " "}', '{"text": 5}']
    found = problems(table, "a.jsonl", "\n".join(rows))
    assert [line.split("a.jsonl:")[1][0] for line in found] == ["2", "3", "4", "5", "6"]
    assert "columns: txt" in found[0]


def test_a_line_that_is_not_json_is_called_that(table):
    """The message of a broken line says what is wrong with it."""
    (line,) = problems(table, "a.jsonl", '{"text": "one"\n')
    assert "JSON" in line


def test_ten_malformed_rows_are_shown_and_the_rest_counted(table):
    """A file without the column does not fill the screen."""
    found = problems(table, "a.csv", "body\n" + "x\n" * 25)
    assert len(found) == 11
    assert found[-1] == "… and 15 more rows like these"


def test_a_csv_row_that_is_too_short_or_too_long_is_no_crash(table):
    """A row without its text is a problem; surplus fields are passed over."""
    assert [row["text"] for row in table("a.csv", "text,label\none,x,extra\n")] == ["one"]
    (line,) = problems(table, "b.csv", "label,text\nx\n")
    assert "b.csv:2" in line


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_an_empty_file_holds_no_documents(table, name):
    """Nothing in, nothing out: `ingest` says so."""
    assert table(name, "") == []


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_bytes_that_are_not_utf8_are_told_with_their_place(table, name):
    """Another encoding is a message with the byte's position."""
    (line,) = problems(table, name, 'text\n"caf\xe9"\n'.encode("latin-1"))
    assert "not UTF-8" in line
    assert "at byte 9" in line


def test_a_long_text_in_a_csv_is_read(table):
    """A field may be longer than the csv module's default limit of 131,072 characters."""
    (row,) = table("a.csv", f"text\n{'x' * 200_000}\n")
    assert len(row["text"]) == 200_000


def test_half_a_surrogate_pair_is_a_malformed_row(table):
    r"""JSON can spell text that UTF-8 cannot hold (`\ud800`): told by line, for it cannot be written."""
    (line,) = problems(table, "a.jsonl", json.dumps({"text": "broken \ud800 emoji"}))
    assert "a.jsonl:1" in line


def test_no_such_file_names_the_nearest(tmp_path):
    """A misspelt file name gets a suggestion."""
    (tmp_path / "reviews.csv").touch()
    with pytest.raises(DataError, match=r"no file .*review\.csv \(did you mean reviews\.csv\?\)"):
        tables.read(tmp_path / "review.csv")


def test_no_such_folder_is_told_as_plainly(tmp_path):
    """Where the folder is missing too, the message is the same."""
    with pytest.raises(DataError, match="no file"):
        tables.read(tmp_path / "nowhere" / "review.csv")


def test_another_kind_of_file_is_refused(tmp_path):
    """Only .jsonl and .csv are read."""
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(DataError, match=r"neither \.jsonl nor \.csv"):
        tables.read(tmp_path / "a.xlsx")
