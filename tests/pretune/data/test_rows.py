from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretune.data import rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "text": TEXT,
            "label": TEXT,
            "labels": st.lists(TEXT),
            "score": st.floats(allow_nan=False),
            "answers": st.lists(st.fixed_dictionaries({"text": TEXT, "start": st.integers(0, 2**40)})),
            "image": st.binary(),
            "x": st.lists(st.floats(allow_nan=False)),
        },
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for the files."""
    return tmp_path_factory.mktemp("rows")


@given(ROWS)
def test_rows_are_read_as_they_were_written(folder, expected):
    """Every value of every column is read back, missing columns stay missing, and the bytes are the same twice."""
    assert rows.write(folder / "a.parquet", expected) == len(expected)
    assert rows.read(folder / "a.parquet") == expected
    rows.write(folder / "b.parquet", iter(expected))
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


@given(ROWS)
def test_rows_with_features_are_read_as_they_were_written(folder, expected):
    """Classes by their names, and images by their bytes, although numbers and structs are stored."""
    classes = {
        "label": sorted({row["label"] for row in expected if "label" in row}),
        "labels": sorted({label for row in expected for label in row.get("labels", [])}),
    }
    expected = [row | {"origin": "here"} for row in expected]
    columns = {name for row in expected for name in row}
    for name in ("a", "b"):
        assert rows.write_features(folder / f"{name}.parquet", expected, columns, classes) == len(expected)
    assert rows.read(folder / "a.parquet") == expected
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_rows_are_read_a_chunk_at_a_time(folder, monkeypatch):
    """More rows than a chunk holds are all read, in order."""
    monkeypatch.setattr(rows, "CHUNK", 7)
    many = [{"text": str(number)} for number in range(50)]
    rows.write(folder / "c.parquet", many)
    assert list(rows.iterate(folder / "c.parquet")) == many


@given(st.sets(st.integers(0, 49)))
def test_chosen_rows_are_those_of_their_numbers(folder, monkeypatch, numbers):
    """None, one, whole chunks or all rows, in order, wherever chunks end."""
    monkeypatch.setattr(rows, "CHUNK", 7)
    many = [{"text": str(number)} for number in range(50)]
    rows.write(folder / "d.parquet", many)
    ascending = sorted(numbers)
    selected = rows.iterate(folder / "d.parquet", np.array(ascending, dtype=np.int64))
    assert list(selected) == [many[number] for number in ascending]
