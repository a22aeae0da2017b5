"""Places of `ingest.source`: files, splits, aligned files, permissions, and all errors at once."""

from __future__ import annotations

import gzip
import sqlite3

import pytest

from pretune.config import source_spec
from pretune.data.ingest.sources import read
from pretune.errors import DataError


def test_aligned_files_of_different_lengths_are_an_error(tmp_path, values, write):
    """A missing line would shift all lines after it."""
    write(tmp_path / "a.en", "one\n\nthree\n")
    write(tmp_path / "a.de", "eins\nzwei\n")
    with pytest.raises(DataError, match=r"different numbers of rows: a\.en has 3, a\.de has 2"):
        values({"text": "a.en", "target": "a.de"})
    write(tmp_path / "a.de", "eins\nzwei\ndrei\n")
    assert values({"text": "a.en", "target": "a.de"})[1] == {"text": "", "target": "zwei"}


def test_an_aligned_table_needs_the_column(tmp_path, values, write):
    """Of several columns, none is guessed."""
    write(tmp_path / "a.en", "one\n")
    write(tmp_path / "a.csv", "id,german\n1,eins\n")
    with pytest.raises(DataError, match=r"a\.csv:2 has no column target; its columns are id, german"):
        values({"text": "a.en", "target": "a.csv"})


def test_aligned_folders_are_read_file_by_file(tmp_path, values, write):
    """As many lines in all are not enough: those of the second file belong to those of the second file."""
    for name, lines in {"en/1": 3, "en/2": 2, "de/1": 2, "de/2": 3}.items():
        write(tmp_path / f"{name}.txt", "".join(f"{name} {n}\n" for n in range(lines)))
    with pytest.raises(DataError, match="different numbers of rows"):
        values({"text": "en/*.txt", "target": "de/*.txt"})
    write(tmp_path / "de/3.txt", "x\n")
    with pytest.raises(DataError, match=r"different numbers of files \(en/\*\.txt: 2, de/\*\.txt: 3\)"):
        values({"text": "en/*.txt", "target": "de/*.txt"})


def test_splits_are_those_that_the_source_names(tmp_path, records, write):
    """`{train: …, test: …}`, each with any kind of source."""
    write(tmp_path / "a.txt", "one\n")
    write(tmp_path / "b.txt", "two\n")
    assert [(split, row["text"].strip()) for split, _, row in records({"train": ["a.txt"], "test": "b.txt"})] == [
        ("train", "one"), ("test", "two"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "permission"),
    [("https://example.org/a.csv", "network"), ("s3://bucket/a.csv", "network"), ("postgresql://host/db#t", "network"),
     ({"type": "hub", "name": "glue", "revision": 40 * "0"}, "network"),
     ("../a.csv", "outside"), ("/data/a.csv", "outside")],
)  # fmt: skip
def test_places_outside_the_workspace_need_permission(values, source, permission):
    """Neither the network nor files outside the workspace are read unless `ingest.allow` lists them."""
    with pytest.raises(DataError) as caught:
        values(source)
    assert f"add {permission} to ingest.allow" in caught.value.next_step


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"type": "hub", "name": "glue", "revision": "main"}, "needs revision: COMMIT"),
        ({"type": "hub", "name": "glue"}, "needs revision: COMMIT"),
        ({"type": "hub", "revision": 40 * "0"}, "needs a name"),
        ({"type": "hub", "name": "./copy", "splt": "x"}, r"unknown key splt \(did you mean split\?\)"),
        ({"type": "hub", "name": "./copy", "config": 1}, "config is a text, got 1"),
        ({"type": "hup", "name": "./copy"}, "the type of a source is hub, got 'hup'"),
        ({"train": {"type": "hub", "name": "a"}, "test": {"type": "hub", "name": "b"}}, "'a'.*'b'"),
        ("hub:glue?revision=main", r"\{type: hub, name: NAME, revision: COMMIT\}"),
    ],
)
def test_a_data_set_of_the_hub_is_a_mapping_that_is_checked(ingest_params, source, message):
    """Its name, its commit (a branch can move) and its keys, when params.yaml is read; the old form is named too."""
    with pytest.raises(ValueError, match=message):
        ingest_params(source=source)


def test_files_of_fsspec_are_read_like_local_ones(values):
    """By an address of its memory file system, with a glob."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/bucket/a.jsonl.gz", gzip.compress(b'{"text": "one"}\n'))
    system.pipe("/bucket/b.jsonl", b'{"text": "two"}\n')
    rows = [
        record.values
        for file in read.remote.find("memory://bucket/*.jsonl*")
        for record in read.tables.json_lines(file, "utf-8")
    ]
    assert rows == [{"text": "one"}, {"text": "two"}]
    with pytest.raises(DataError, match=r"nothing at memory://bucket/\*\.csv"):
        read.remote.find("memory://bucket/*.csv")


def test_a_missing_file_is_an_error_with_the_nearest_name(tmp_path, values, write):
    """A misspelt name gets a suggestion, of a folder too; what is in DVC alone, and what a pattern missed, is named."""
    write(tmp_path / "reviews.csv", "text\n")
    with pytest.raises(DataError, match=r"no file review\.csv \(did you mean reviews\.csv\?\)"):
        values("review.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no files"):
        values("empty")
    with pytest.raises(DataError, match=r"no file emty/a/b\.csv \(did you mean empty\?\)"):
        values("emty/a/b.csv")
    write(tmp_path / "empty" / "a.tsv", "text\n")
    with pytest.raises(DataError, match=r"empty/\*\.csv holds no files; the files there end in \.tsv"):
        values("empty/*.csv")
    write(tmp_path / "stored.csv.dvc", "outs:\n")
    with pytest.raises(DataError, match=r"stored\.csv is in DVC, but not in the workspace") as caught:
        values("stored.csv")
    assert caught.value.next_step == "dvc pull stored.csv.dvc"


def test_an_unknown_ending_needs_a_format(tmp_path, values, write):
    """The message lists the formats."""
    for name, step in {"a.log": "set ingest.format to one of text, lines", "a.docx": "save it as .txt"}.items():
        write(tmp_path / name, "x")
        with pytest.raises(DataError, match=rf"no format is known for the ending `\{name[1:]}`") as caught:
            values(name)
        assert step in caught.value.next_step


def test_the_paths_that_dvc_has_to_list_follow_from_the_source(tmp_path):
    """Files, folders, the fixed parts of globs, databases; none for built-in or remote sources."""
    source = {"train": ["a/b/*.csv", "c.txt"], "test": {"text": "d/e.en", "target": "d/e.de"}, "corpus": "s3://x/y"}
    assert list(source_spec.local_paths(source, tmp_path)) == ["a/b", "c.txt", "d/e.en", "d/e.de"]
    assert list(source_spec.local_paths("pydocs", tmp_path)) == []
    assert list(source_spec.local_paths("sqlite:///x/y.db#t", tmp_path)) == ["x/y.db"]
    assert list(source_spec.local_paths({"type": "hub", "name": "./copy", "split": "train"}, tmp_path)) == ["./copy"]


def test_built_in_sources_are_read_by_name(records, monkeypatch):
    """`pydocs` gives texts of this Python, `digits` images of scikit-learn."""
    from pretune.data.ingest import pydocs

    monkeypatch.setattr(pydocs, "collect", lambda: [{"text": "a docstring", "label": "data", "origin": "json"}])
    assert records("pydocs")[0][1:] == ("json", {"text": "a docstring", "label": "data", "origin": "json"})
    (_, origin, first), *others = records("digits")
    assert (origin, first["image"].shape, len(others)) == ("digits:0", (8, 8), 1796)


def test_every_wrong_place_is_listed_at_once(tmp_path, values, write):
    """A file, a format, a permission, a copy of a data set, a table: before any row is read."""
    write(tmp_path / "a.docx", "x")
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE reviews (text TEXT)")
    database.close()
    source = {
        "train": ["none.csv", "a.docx", "https://example.org/a.csv"],
        "validation": {"type": "hub", "name": "./none"},
        "test": {"text": "none.en", "target": "none.de"},
        "corpus": "sqlite:///a.db#review",
    }
    with pytest.raises(DataError) as caught:
        values(source)
    expected = ["none.csv", "a.docx", "example.org", "./none", "none.en", "none.de", "no table `review`"]
    assert len(caught.value.problems) == len(expected)
    assert all(word in problem for word, problem in zip(expected, caught.value.problems, strict=True))
    assert "add network to ingest.allow" in caught.value.next_step


def test_every_unreadable_file_is_listed_at_once(tmp_path, values, write):
    """Of any format, at most ten."""
    write(tmp_path / "a.csv", "text\nhello\n")
    write(tmp_path / "b.parquet", "x")
    write(tmp_path / "c.json", "{")
    (tmp_path / "d.txt.gz").write_bytes(b"x")
    (tmp_path / "e.arrow.gz").write_bytes(b"x")
    names = ["b.parquet", "c.json", "d.txt.gz", "e.arrow.gz"]
    with pytest.raises(DataError) as caught:
        values(["a.csv", *names])
    assert [problem.partition(":")[0] for problem in caught.value.problems] == names
    with pytest.raises(DataError) as caught:
        values(["c.json"] * 12)
    assert len(caught.value.problems) == 10
