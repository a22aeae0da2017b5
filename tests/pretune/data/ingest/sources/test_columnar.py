"""Parquet and Arrow, with the metadata that `datasets` and pandas write."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Image, LargeList, List, Value

from pretune.errors import DataError

SENTIMENT = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
WRITERS = {"a.parquet": pq.write_table, "a.arrow": pa.ipc.new_file, "b.arrow": pa.ipc.new_stream}


@pytest.fixture
def written(tmp_path):
    """A function that writes a table, with features of `datasets` if there are any."""

    def write_table(table, features=None, name="a.parquet"):
        table = table.replace_schema_metadata(None if features is None else features.arrow_schema.metadata)
        if name.endswith(".parquet"):
            pq.write_table(table, tmp_path / name)
        else:
            with WRITERS[name](str(tmp_path / name), table.schema) as file:
                file.write_table(table, 2)
        return name

    return write_table


@pytest.mark.parametrize("name", WRITERS)
def test_parquet_and_arrow_give_the_same_rows(written, records, name):
    """Parquet and both formats of Arrow: numbers of classes become their names, and origins count the rows."""
    table = pa.table({"text": ["a", "b", "c"], "label": [1, 0, 1]})
    assert records(written(table, SENTIMENT, name)) == [
        (None, f"{name}:{n}", {"text": text, "label": label})
        for n, (text, label) in enumerate(zip("abc", ["yes", "no", "yes"], strict=True), start=1)
    ]


def test_classes_have_their_names_wherever_they_lie(written, values):
    """In lists, large lists and structs, and in lists of those; -1 and null are no class."""
    tag = ClassLabel(names=["O", "B"])
    features = Features(
        {"a": List(tag), "b": LargeList(tag), "c": {"d": tag, "e": Value("bool")}, "f": List({"g": tag}), "h": tag}
    )
    row = {"a": [0, 1, -1], "b": [1], "c": {"d": 0, "e": True}, "f": [{"g": 1}, {"g": None}], "h": -1}
    empty = dict.fromkeys(row)
    table = pa.Table.from_pylist([row, empty], schema=pa.schema(list(features.arrow_schema)))
    assert values(written(table, features)) == [
        {"a": ["O", "B", None], "b": ["B"], "c": {"d": "O", "e": True}, "f": [{"g": "B"}, {"g": None}], "h": None},
        empty,
    ]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.string()])
def test_a_class_that_other_software_stored_otherwise_keeps_its_name(written, values, kind):
    """As a smaller number, or as the name itself."""
    label = pa.array(["yes"] if kind == pa.string() else [1], kind)
    assert values(written(pa.table({"text": ["a"], "label": label}), SENTIMENT)) == [{"text": "a", "label": "yes"}]


@pytest.mark.parametrize("number", [2, -2])
def test_a_number_that_no_class_has_is_a_bad_record(written, values, number):
    """The records around it are read."""
    table = pa.table({"text": ["a", "b"], "label": [number, 0]})
    problem = f"label has a number without a class: {number}, of 2 classes"
    assert values(written(table, SENTIMENT)) == [problem, {"text": "b", "label": "no"}]


def test_an_image_is_its_bytes_and_a_path_alone_is_a_bad_record(written, values):
    """The file that a path names may be on another machine."""
    image = pa.array([{"bytes": b"PNG", "path": "x/a.png"}, {"bytes": None, "path": "x/b.png"}, None], Image.pa_type)
    assert values(written(pa.table({"image": image}), Features({"image": Image()}))) == [
        {"image": {"bytes": b"PNG", "path": "x/a.png"}},
        "image is the path of an image, not the image: b.png",
        {"image": None},
    ]


MOMENT = dt.datetime(2020, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
TYPES = {
    "large": (pa.array(["x"], pa.large_string()), "x"),
    "view": (pa.array(["x"], pa.string_view()), "x"),
    "category": (pa.array(["x"]).dictionary_encode(), "x"),
    "bool": (pa.array([True]), True),
    "moment": (pa.array([MOMENT], pa.timestamp("ns", "UTC")), "2020-01-02T03:04:05+00:00"),
    "day": (pa.array([[MOMENT.date()]]), ["2020-01-02"]),
    "time": (pa.array([MOMENT.time()]), "03:04:05"),
    "duration": (pa.array([dt.timedelta(minutes=1)]), "0:01:00"),
    "whole": (pa.array([Decimal("3.00")]), 3),
    "decimal": (pa.array([Decimal("3.25")]), 3.25),
    "half": (pa.array(np.array([1.5], np.float16)), 1.5),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
    "null": (pa.nulls(1), None),
}


def test_values_of_all_types_are_those_that_json_has(written, values):
    """Categories are their values, moments ISO 8601 texts, decimals numbers."""
    table = pa.table({name: array for name, (array, _) in TYPES.items()})
    assert values(written(table)) == [{name: value for name, (_, value) in TYPES.items()}]


def test_the_index_of_pandas_is_no_column(tmp_path, values):
    """A filtered table has one without a name, which pandas stores; an index with a name is a column."""
    frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", "y"])})
    frame[frame["text"] == "b"].to_parquet(tmp_path / "a.parquet")
    assert values("a.parquet") == [{"text": "b", "label": "y"}]
    frame.set_index("text").to_parquet(tmp_path / "a.parquet")
    assert [row["text"] for row in values("a.parquet")] == ["a", "b"]


def test_two_columns_of_one_name_are_an_error(written, values):
    """One of them would be lost."""
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match=r"a\.arrow: two columns are called text"):
        values(written(table, name="a.arrow"))


def test_metadata_that_cannot_be_read_is_an_error(tmp_path, values):
    """Without it, classes would be numbers."""
    metadata = {"huggingface": json.dumps({"info": {"features": {"text": {"_type": "Unknown"}}}})}
    pq.write_table(pa.table({"text": ["a"]}).replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: its metadata of datasets cannot be read"):
        values("a.parquet")


@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_an_error(tmp_path, written, values, name):
    """Wherever it ends: a stream also between two batches, where Arrow itself, and so `datasets`, sees no fault."""
    content = (tmp_path / written(pa.table({"text": ["a", "b", "c"]}), name=name)).read_bytes()
    for size in range(0, len(content), 1 if name == "b.arrow" else 16):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            values(name)
