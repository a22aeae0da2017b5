"""Formats of files: text, tables, columnar tables, images."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretune.data.ingest.sources import read
from pretune.errors import DataError

FIELD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
LINES = st.lists(FIELD.filter(lambda text: text.strip() and len(text.splitlines()) == 1), min_size=1, max_size=8)


@pytest.mark.parametrize("ending", ["", ".gz", ".zst", ".bz2"])
def test_text_is_a_block_a_line_or_a_file(tmp_path, records, ending, write):
    """Blank lines separate blocks; origins have the numbers of the lines; compression changes nothing."""
    write(tmp_path / f"a.txt{ending}", "one\ntwo\n\n\nthree\n")
    name = f"a.txt{ending}"
    assert records(name) == [(None, f"{name}:1", {"text": "one\ntwo\n"}), (None, f"{name}:5", {"text": "three\n"})]
    assert [(o, v["text"]) for _, o, v in records(name, format="lines")] == [
        (f"{name}:1", "one"), (f"{name}:2", "two"), (f"{name}:5", "three"),
    ]  # fmt: skip
    assert records(name, format="text") == [(None, name, {"text": "one\ntwo\n\n\nthree\n"})]


@given(LINES)
def test_any_line_of_text_is_read_as_it_was_written(tmp_path_factory, ingest_params, write, lines):
    """Spaces and separators of other scripts included."""
    folder = tmp_path_factory.mktemp("lines")
    write(folder / "a.txt", "".join(line + "\n" for line in lines))
    params = ingest_params(source="a.txt", format="lines")
    assert [record.values["text"] for _, record in read.read(params, lambda place: folder / place)] == lines


@given(st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
def test_any_table_is_read_as_the_csv_module_wrote_it(tmp_path_factory, ingest_params, table):
    """Quotation marks, commas and line ends within fields are restored."""
    folder = tmp_path_factory.mktemp("csv")
    text = io.StringIO()
    csv.writer(text).writerows([("text", "label"), *table])
    (folder / "a.csv").write_bytes(text.getvalue().encode())
    params = ingest_params(source="a.csv")
    rows = [record.values for _, record in read.read(params, lambda place: folder / place)]
    assert rows == [{"text": text, "label": label} for text, label in table]


def test_a_table_without_header_has_numbered_columns(tmp_path, values, write):
    """With `header: false` the first line is a row."""
    write(tmp_path / "a.csv", 'x,"one, two"\ny,three\n')
    assert values("a.csv", header=False) == [{"1": "x", "2": "one, two"}, {"1": "y", "2": "three"}]


def test_quotation_marks_in_a_tsv_are_characters(tmp_path, values, write):
    """A line that begins with one does not swallow the next lines."""
    write(tmp_path / "a.tsv", 'text\tlabel\n"oh\t1\nyes"\t0\n')
    assert values("a.tsv") == [{"text": '"oh', "label": "1"}, {"text": 'yes"', "label": "0"}]


def test_malformed_lines_are_problems_at_their_line(tmp_path, records, write):
    """Too few fields, no JSON, no object: the record has its origin, and the rows after it are read."""
    write(tmp_path / "a.csv", "text,label\none\ntwo,x\n")
    assert records("a.csv")[0][1:] == ("a.csv:2", "fewer fields than columns")
    assert records("a.csv")[1][2] == {"text": "two", "label": "x"}
    write(tmp_path / "a.jsonl", '\n{"text": "one"}\n{\n[1]\n')
    assert [(origin, content) for _, origin, content in records("a.jsonl")] == [
        ("a.jsonl:2", {"text": "one"}), ("a.jsonl:3", "not JSON"), ("a.jsonl:4", "not a JSON object"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_an_empty_file_has_no_records_and_a_byte_order_mark_is_skipped(tmp_path, values, name, write):
    """Spreadsheets write a byte order mark, which is not part of the name of the first column."""
    write(tmp_path / name, "")
    assert values(name) == []
    content = {"a.csv": "text\nhello\n", "a.jsonl": '{"text": "hello"}\n', "a.txt": "hello\n"}[name]
    write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())
    assert [row["text"].strip() for row in values(name)] == ["hello"]


def test_a_file_is_read_in_the_encoding_of_params(tmp_path, values, write):
    """That is `ingest.encoding`."""
    write(tmp_path / "a.txt", "商务大床房".encode("gb18030"))
    assert values("a.txt", encoding="gb18030") == [{"text": "商务大床房"}]
    assert values("a.txt") != [{"text": "商务大床房"}]


def test_two_columns_of_one_name_are_refused(tmp_path, values, write):
    """One of them would be lost."""
    write(tmp_path / "a.csv", "text,text\na,b\n")
    with pytest.raises(DataError, match="two columns are called text"):
        values("a.csv")


def test_parquet_and_arrow_give_the_same_rows(tmp_path, values):
    """Parquet and both formats of Arrow; class numbers become the names that `datasets` stored."""
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
    """By the parent of each file; hidden files are skipped."""
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        Image.new("L", (3, 2), 7).save(tmp_path / "pictures" / label / "1.png")
    (tmp_path / "pictures" / ".hidden.png").write_bytes(b"")
    assert [(origin, row["label"]) for _, origin, row in records("pictures")] == [
        ("pictures/cat/1.png", "cat"), ("pictures/dog/1.png", "dog"),
    ]  # fmt: skip
    assert [origin for _, origin, _ in records("pictures/d*/*.png")] == ["pictures/dog/1.png"]


@given(st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 4)), st.randoms())
def test_idx_files_are_aligned(tmp_path_factory, ingest_params, write, shape, random):
    """The n-th image of one file has the n-th label of another."""
    folder = tmp_path_factory.mktemp("idx")
    count = shape[0]
    pixels = np.array([random.randrange(256) for _ in range(int(np.prod(shape)))], np.uint8)
    header = bytes([0, 0, 8, 3]) + np.array(shape, ">u4").tobytes()
    write(folder / "images-ubyte.gz", header + pixels.tobytes())
    write(folder / "labels-ubyte", bytes([0, 0, 8, 1]) + np.array([count], ">u4").tobytes() + bytes(range(count)))
    params = ingest_params(source={"image": "images-ubyte.gz", "label": "labels-ubyte"})
    rows = [record.values for _, record in read.read(params, lambda place: folder / place)]
    assert [row["label"] for row in rows] == list(range(count))
    assert np.array_equal(np.array([row["image"] for row in rows]).reshape(-1), pixels)


def test_squad_gives_questions_with_their_contexts(tmp_path, records, write):
    """The origin is the id of the question."""
    entry = {"id": "q1", "question": "who?", "answers": [{"text": "he", "answer_start": 3}]}
    content = {"data": [{"title": "t", "paragraphs": [{"context": "so he", "qas": [entry]}]}]}
    write(tmp_path / "a.json", json.dumps(content))
    assert records("a.json") == [(None, "a.json:q1", {"context": "so he", "title": "t"} | entry)]
    write(tmp_path / "a.json", '[{"text": "x"}, 5]')
    assert [content for _, _, content in records("a.json")] == [{"text": "x"}, "not a JSON object"]
    write(tmp_path / "a.json", '{"rows": [{"text": "x"}], "version": 2}')
    assert records("a.json") == [(None, "a.json:1", {"text": "x"})]
    write(tmp_path / "a.json", '{"rows": 1}')
    with pytest.raises(DataError, match=r"neither a list of objects, nor .* nor SQuAD's format"):
        records("a.json")


def test_a_question_without_an_answer_has_an_empty_list(tmp_path, values, write):
    """SQuAD 2.0: plausible answers are not answers."""
    entry = {"id": "q1", "question": "who?", "answers": [], "plausible_answers": [{"text": "he"}]}
    write(tmp_path / "a.json", json.dumps({"data": [{"paragraphs": [{"context": "so he", "qas": [entry]}]}]}))
    assert values("a.json")[0]["answers"] == []


def columnar(name, texts):
    """A table in Arrow's file format, as a stream (`b`) or as Parquet, with ten rows per batch."""
    table, content = pa.table({"text": texts}), io.BytesIO()
    if name == "a.parquet":
        pq.write_table(table, content)
        return content.getvalue()
    with (pa.ipc.new_stream if name == "b.arrow" else pa.ipc.new_file)(content, table.schema) as file:
        file.write_table(table, max_chunksize=10)
    return content.getvalue()


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json", "a.arrow", "b.arrow", "a.parquet"])
def test_a_truncated_compressed_file_is_an_error(tmp_path, values, name, compression, write):
    """Wherever it ends: within a row, between two rows, near the end."""
    texts = ["".join(map(chr, line)) for line in np.random.default_rng(0).integers(97, 123, (50, 60)).tolist()]
    content = {
        "a.json": json.dumps([{"text": text} for text in texts]), "a.txt": "\n\n".join(texts),
        "a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts),
    }.get(name, "\n".join(["text", *texts]))  # fmt: skip
    file = tmp_path / (name + compression)
    write(file, content if file.suffixes[0] not in {".arrow", ".parquet"} else columnar(name, texts))
    assert len(values(file.name)) == len(texts)
    complete = file.read_bytes()
    for size in (1, len(complete) // 3, len(complete) // 2, len(complete) - 8, len(complete) - 1):
        file.write_bytes(complete[:size])
        with pytest.raises(DataError, match=file.name):
            values(file.name)


@pytest.mark.parametrize("name", ["a.arrow", "b.arrow", "a.parquet"])
def test_a_truncated_table_of_arrow_is_an_error(tmp_path, values, name):
    """Between two batches of a stream too, where Arrow itself takes it for complete."""
    complete = columnar(name, ["x" * 60] * 50)
    for size in range(1, len(complete), 8):
        (tmp_path / name).write_bytes(complete[:size])
        with pytest.raises(DataError, match=f"{name}: cannot be read as"):
            values(name)
    (tmp_path / name).write_bytes(complete)
    assert len(values(name)) == 50
