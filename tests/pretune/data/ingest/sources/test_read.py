from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import sqlite3
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretune.config import source_spec
from pretune.data.ingest.sources import read
from pretune.errors import DataError

FIELD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
LINES = st.lists(FIELD.filter(lambda text: text.strip() and len(text.splitlines()) == 1), min_size=1, max_size=8)


@pytest.fixture
def records(tmp_path, ingest_params):
    """A function that reads a source in a folder: (split, origin, values or problem) of each record."""

    def found(source, **changes):
        params = ingest_params(source=source, **changes)
        return [
            (split, record.origin, record.problem or record.values)
            for split, record in read.read(params, lambda place: tmp_path / place)
        ]

    return found


@pytest.fixture
def values(records):
    """A function that reads a source and returns the values alone."""
    return lambda source, **changes: [each for _, _, each in records(source, **changes)]


def write(path, content):
    """Write text or bytes, compressed as the name says; zstd by Arrow."""
    content = content.encode() if isinstance(content, str) else content
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)(content))


@pytest.mark.parametrize("ending", ["", ".gz", ".zst", ".bz2"])
def test_text_is_a_block_a_line_or_a_file(tmp_path, records, ending):
    """Blank lines part blocks; lines are numbered as they stand; compression changes nothing."""
    write(tmp_path / f"a.txt{ending}", "one\ntwo\n\n\nthree\n")
    name = f"a.txt{ending}"
    assert records(name) == [(None, f"{name}:1", {"text": "one\ntwo\n"}), (None, f"{name}:5", {"text": "three\n"})]
    assert [(o, v["text"]) for _, o, v in records(name, format="lines")] == [
        (f"{name}:1", "one"), (f"{name}:2", "two"), (f"{name}:5", "three"),
    ]  # fmt: skip
    assert records(name, format="text") == [(None, name, {"text": "one\ntwo\n\n\nthree\n"})]


@given(LINES)
def test_any_line_of_text_is_read_as_it_was_written(tmp_path_factory, ingest_params, lines):
    """Whatever a line holds, blanks and separators of other scripts included."""
    folder = tmp_path_factory.mktemp("lines")
    write(folder / "a.txt", "".join(line + "\n" for line in lines))
    params = ingest_params(source="a.txt", format="lines")
    assert [record.values["text"] for _, record in read.read(params, lambda place: folder / place)] == lines


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
def test_any_table_is_read_as_the_csv_module_wrote_it(tmp_path_factory, ingest_params, table):
    """Quotation marks, commas and line ends within fields come back."""
    folder = tmp_path_factory.mktemp("csv")
    written = io.StringIO()
    csv.writer(written).writerows([("text", "label"), *table])
    (folder / "a.csv").write_bytes(written.getvalue().encode())
    params = ingest_params(source="a.csv")
    found = [record.values for _, record in read.read(params, lambda place: folder / place)]
    assert found == [{"text": text, "label": label} for text, label in table]


def test_a_table_without_header_has_numbered_columns(tmp_path, values):
    """`header: false`: the first line is a row."""
    write(tmp_path / "a.csv", 'x,"one, two"\ny,three\n')
    assert values("a.csv", header=False) == [{"1": "x", "2": "one, two"}, {"1": "y", "2": "three"}]


def test_quotation_marks_in_a_tsv_are_characters(tmp_path, values):
    """A line that begins with one does not swallow those after it."""
    write(tmp_path / "a.tsv", 'text\tlabel\n"oh\t1\nyes"\t0\n')
    assert values("a.tsv") == [{"text": '"oh', "label": "1"}, {"text": 'yes"', "label": "0"}]


def test_malformed_lines_are_problems_at_their_line(tmp_path, records):
    """Too few fields, no JSON, no object: told where they stand, and the rows after them are read."""
    write(tmp_path / "a.csv", "text,label\none\ntwo,x\n")
    assert records("a.csv")[0][1:] == ("a.csv:2", "more or fewer fields than columns")
    assert records("a.csv")[1][2] == {"text": "two", "label": "x"}
    write(tmp_path / "a.jsonl", '\n{"text": "one"}\n{\n[1]\n')
    assert [(origin, each) for _, origin, each in records("a.jsonl")] == [
        ("a.jsonl:2", {"text": "one"}), ("a.jsonl:3", "not JSON"), ("a.jsonl:4", "not a JSON object"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_an_empty_file_holds_no_records_and_a_byte_order_mark_is_none(tmp_path, values, name):
    """Nothing in, nothing out; what spreadsheets write before the first column is not part of its name."""
    write(tmp_path / name, "")
    assert values(name) == []
    content = {"a.csv": "text\nhello\n", "a.jsonl": '{"text": "hello"}\n', "a.txt": "hello\n"}[name]
    write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())
    assert [each["text"].strip() for each in values(name)] == ["hello"]


def test_another_encoding_is_read_when_it_is_named(tmp_path, values):
    """`ingest.encoding`."""
    write(tmp_path / "a.txt", "商务大床房".encode("gb18030"))
    assert values("a.txt", encoding="gb18030") == [{"text": "商务大床房"}]
    assert values("a.txt") != [{"text": "商务大床房"}]


def test_two_columns_of_one_name_are_refused(tmp_path, values):
    """One of them would be lost."""
    write(tmp_path / "a.csv", "text,text\na,b\n")
    with pytest.raises(DataError, match="two columns are called text"):
        values("a.csv")


def test_parquet_and_arrow_give_the_same_rows(tmp_path, values):
    """Both of Arrow's forms, and Parquet; class numbers that `datasets` has named get their names."""
    features = {"info": {"features": {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(str(tmp_path / "b.arrow"), table.schema) as file:
        file.write_table(table)
    expected = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}]
    assert values("a.parquet") == values("a.arrow") == values("b.arrow") == expected


def test_a_folder_of_images_is_labelled_by_its_folders(tmp_path, records):
    """Each file's parent; files whose names begin with a dot are passed over."""
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.new("L", (3, 2), 7).save(tmp_path / "pictures" / label / "1.png")
    (tmp_path / "pictures" / ".hidden.png").write_bytes(b"")
    found = records("pictures")
    assert [(origin, each["label"]) for _, origin, each in found] == [
        ("pictures/cat/1.png", "cat"), ("pictures/dog/1.png", "dog"),
    ]  # fmt: skip
    assert [origin for _, origin, _ in records("pictures/d*/*.png")] == ["pictures/dog/1.png"]


@given(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4)), st.randoms())
def test_idx_files_are_read_side_by_side(tmp_path_factory, ingest_params, shape, random):
    """Images from one file, labels from another: the n-th of each belong together."""
    folder = tmp_path_factory.mktemp("idx")
    count = shape[0]
    pixels = np.array([random.randrange(256) for _ in range(int(np.prod(shape)))], np.uint8)
    head = bytes([0, 0, 8, 3]) + np.array(shape, ">u4").tobytes()
    write(folder / "images-ubyte.gz", head + pixels.tobytes())
    write(folder / "labels-ubyte", bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes() + bytes(range(count)))
    params = ingest_params(source={"image": "images-ubyte.gz", "label": "labels-ubyte"})
    found = [record.values for _, record in read.read(params, lambda place: folder / place)]
    assert [each["label"] for each in found] == list(range(count))
    assert np.array_equal(np.array([each["image"] for each in found]).reshape(-1), pixels)


def test_files_of_different_lengths_do_not_belong_together(tmp_path, values):
    """A line that is missing would shift all that follow."""
    write(tmp_path / "a.en", "one\n\nthree\n")
    write(tmp_path / "a.de", "eins\nzwei\n")
    with pytest.raises(DataError, match=r"a\.de ends after 2 rows"):
        values({"text": "a.en", "target": "a.de"})
    write(tmp_path / "a.de", "eins\nzwei\ndrei\n")
    assert values({"text": "a.en", "target": "a.de"})[1] == {"text": "", "target": "zwei"}


def test_squad_gives_questions_with_their_contexts(tmp_path, records):
    """The origin is the question's id."""
    entry = {"id": "q1", "question": "who?", "answers": [{"text": "he", "answer_start": 3}]}
    content = {"data": [{"title": "t", "paragraphs": [{"context": "so he", "qas": [entry]}]}]}
    write(tmp_path / "a.json", json.dumps(content))
    assert records("a.json") == [(None, "a.json:q1", {"context": "so he", "title": "t"} | entry)]
    write(tmp_path / "a.json", '[{"text": "x"}, 5]')
    assert [each for _, _, each in records("a.json")] == [{"text": "x"}, "not a JSON object"]
    write(tmp_path / "a.json", '{"rows": []}')
    with pytest.raises(DataError, match="neither a list of objects nor in the format of SQuAD"):
        records("a.json")


def test_splits_are_those_that_the_source_names(tmp_path, records):
    """`{train: …, test: …}`, each with any kind of source."""
    write(tmp_path / "a.txt", "one\n")
    write(tmp_path / "b.txt", "two\n")
    assert [(split, each["text"].strip()) for split, _, each in records({"train": ["a.txt"], "test": "b.txt"})] == [
        ("train", "one"), ("test", "two"),
    ]  # fmt: skip


def test_a_table_of_a_database_is_read_in_the_order_of_its_key(tmp_path, values):
    """Not in the order of insertion; a name that is wrong gets the nearest."""
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT)")
        database.executemany("INSERT INTO reviews VALUES (?, ?)", [(2, "two"), (1, "one")])
    database.close()
    assert values("sqlite:///a.db#reviews") == [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}]
    with pytest.raises(DataError, match=r"no table `review` \(did you mean reviews\?\)"):
        values("sqlite:///a.db#review")


def test_a_password_in_an_address_is_refused(values):
    """params.yaml is recorded; the message does not repeat it."""
    with pytest.raises(DataError) as caught:
        values("postgresql://me:secret@example.org/db#t", allow=["network"])
    assert "secret" not in str(caught.value)
    assert "PRETUNE_SQL_PASSWORD" in caught.value.next_step


@pytest.mark.parametrize(
    ("source", "word"),
    [("https://example.org/a.csv", "network"), ("s3://bucket/a.csv", "network"), ("postgresql://host/db#t", "network"),
     ("hub:glue?revision=" + 40 * "0", "network"), ("../a.csv", "outside"), ("/data/a.csv", "outside")],
)  # fmt: skip
def test_what_is_far_away_needs_leave(values, source, word):
    """Neither the network nor files outside of the workspace are read unless `ingest.allow` says so."""
    with pytest.raises(DataError) as caught:
        values(source)
    assert f"add {word} to ingest.allow" in caught.value.next_step


def test_a_data_set_of_the_hub_is_pinned(values):
    """A branch moves; a commit does not."""
    with pytest.raises(DataError, match="needs revision=COMMIT"):
        values("hub:glue?revision=main", allow=["network"])


def test_files_behind_fsspec_are_read_like_local_ones(values):
    """An address that fsspec knows, here its memory file system, with a glob."""
    import fsspec

    system = fsspec.filesystem("memory")
    system.pipe("/bucket/a.jsonl.gz", gzip.compress(b'{"text": "one"}\n'))
    system.pipe("/bucket/b.jsonl", b'{"text": "two"}\n')
    found = [
        record.values
        for file in read.remote.find("memory://bucket/*.jsonl*")
        for record in read.tables.json_lines(file, "utf-8")
    ]
    assert found == [{"text": "one"}, {"text": "two"}]
    with pytest.raises(DataError, match=r"nothing at memory://bucket/\*\.csv"):
        read.remote.find("memory://bucket/*.csv")


def test_no_such_file_names_the_nearest(tmp_path, values):
    """A misspelt name gets a suggestion; a folder without files is told as plainly."""
    write(tmp_path / "reviews.csv", "text\n")
    with pytest.raises(DataError, match=r"no file review\.csv \(did you mean reviews\.csv\?\)"):
        values("review.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no files"):
        values("empty")


def test_an_ending_that_nobody_knows_asks_for_the_format(tmp_path, values):
    """The message lists what there is."""
    write(tmp_path / "a.xlsx", "x")
    with pytest.raises(DataError, match=r"no format is known for the ending `\.xlsx`") as caught:
        values("a.xlsx")
    assert "csv" in caught.value.next_step


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json", "a.arrow", "b.arrow", "a.parquet"])
def test_a_compressed_file_that_breaks_off_is_an_error(tmp_path, values, name, compression):
    """Half a download is not read as if it were whole, wherever it ends: in a row, between two, near the end."""
    texts = ["".join(map(chr, line)) for line in np.random.default_rng(0).integers(97, 123, (50, 60)).tolist()]
    content = {
        "a.json": json.dumps([{"text": text} for text in texts]), "a.txt": "\n\n".join(texts),
        "a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
    }.get(name, "\n".join(["text", *texts]))  # fmt: skip
    file = tmp_path / (name + compression)
    write(file, content if file.suffixes[0] not in {".arrow", ".parquet"} else columnar(name, texts))
    assert len(values(file.name)) == len(texts)
    whole = file.read_bytes()
    for kept in (1, len(whole) // 3, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=file.name):
            values(file.name)


def columnar(name, texts):
    """A table in Arrow's file format, as a stream (`b`) or as Parquet, ten rows a batch."""
    table, written = pa.table({"text": texts}), io.BytesIO()
    if name == "a.parquet":
        pq.write_table(table, written)
        return written.getvalue()
    with (pa.ipc.new_stream if name == "b.arrow" else pa.ipc.new_file)(written, table.schema) as file:
        file.write_table(table, max_chunksize=10)
    return written.getvalue()


@pytest.mark.parametrize("name", ["a.arrow", "b.arrow", "a.parquet"])
def test_a_table_of_arrow_that_breaks_off_anywhere_is_an_error(tmp_path, values, name):
    """Between two batches of a stream too, where Arrow itself takes it for whole."""
    whole = columnar(name, ["x" * 60] * 50)
    for kept in range(1, len(whole), 8):
        (tmp_path / name).write_bytes(whole[:kept])
        with pytest.raises(DataError, match=f"{name}: cannot be read as"):
            values(name)
    (tmp_path / name).write_bytes(whole)
    assert len(values(name)) == 50


def test_the_paths_that_dvc_has_to_watch_follow_from_the_source():
    """Files, folders, the beginnings of globs, databases; nothing for what is built in or elsewhere."""
    source = {"train": ["a/b/*.csv", "c.txt"], "test": {"text": "d/e.en", "target": "d/e.de"}, "corpus": "s3://x/y"}
    assert list(source_spec.local_paths(source)) == ["a/b", "c.txt", "d/e.en", "d/e.de"]
    assert list(source_spec.local_paths("pydocs")) == []
    assert list(source_spec.local_paths("sqlite:///x/y.db#t")) == ["x/y.db"]
    assert list(source_spec.local_paths("hub:./copy?split=train")) == ["./copy"]


def test_what_is_built_in_is_read_by_its_name(records, monkeypatch):
    """`pydocs` gives texts of this Python, `digits` the images of scikit-learn, each its own."""
    from pretune.data.ingest import pydocs

    monkeypatch.setattr(pydocs, "collect", lambda: [{"text": "a docstring", "label": "data", "origin": "json"}])
    assert records("pydocs")[0][1:] == ("json", {"text": "a docstring", "label": "data", "origin": "json"})
    (_, origin, first), *others = records("digits")
    assert (origin, first["image"].shape, len(others)) == ("digits:0", (8, 8), 1796)


def test_every_place_that_is_wrong_is_told_at_once(tmp_path, values):
    """A file, a format, leave to use the network, keys and commit of a data set, a table: before any row is read."""
    write(tmp_path / "a.xlsx", "x")
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute("CREATE TABLE reviews (text TEXT)")
    database.close()
    source = {
        "train": ["none.csv", "a.xlsx", "https://example.org/a.csv"],
        "validation": "hub:./none?splt=x",
        "test": {"text": "none.en", "target": "none.de"},
        "corpus": "sqlite:///a.db#review",
    }
    with pytest.raises(DataError) as caught:
        values(source)
    told = ["none.csv", "a.xlsx", "example.org", "splt", "none.en", "none.de", "no table `review`"]
    assert len(caught.value.problems) == len(told)
    assert all(word in problem for word, problem in zip(told, caught.value.problems, strict=True))
    assert "add network to ingest.allow" in caught.value.next_step
    with pytest.raises(DataError) as caught:
        values("hub:glue?splt=x", allow=["network"])
    assert len(caught.value.problems) == 2


def test_every_file_that_cannot_be_read_is_told_at_once(tmp_path, values):
    """Of whatever format; ten at most."""
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


def test_a_driver_that_is_missing_is_told_by_its_package(values, monkeypatch):
    """What to install is not called as the module is."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DataError, match="no driver") as caught:
        values("postgresql://127.0.0.1/db#t", allow=["network"])
    assert caught.value.next_step == "pip install 'psycopg[binary]'"
