"""Rows: what a data set is made of. A row is a mapping from column to value; columns have fixed names and types.

On disk a part of a data set is one Parquet file, its rows in the order given. A column that a row
lacks is not in its mapping: None never stands for a value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]

COLUMNS = {
    "text": pa.string(),  # what is read
    "pair": pa.string(),  # the second of two texts
    "label": pa.string(),  # a class
    "labels": pa.list_(pa.string()),  # any number of classes
    "score": pa.float64(),  # a number to predict
    "words": pa.list_(pa.string()),  # a text in words, each with one of `tags`
    "tags": pa.list_(pa.string()),
    "question": pa.string(),  # about `context`
    "context": pa.string(),
    "answers": pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())])),  # each a span of `context`
    "target": pa.string(),  # the text to write
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),  # a conversation
    "image": pa.binary(),  # a PNG file
    "x": pa.list_(pa.float64()),  # numeric columns, and what is to be predicted from them
    "y": pa.list_(pa.float64()),
    "split": pa.string(),  # train, validation, test, or corpus: where the source says so
    "group": pa.string(),  # rows of one group stay in one split
    "origin": pa.string(),  # file and line, where it came from
}
SUPERVISION = ("label", "labels", "score", "tags", "answers", "target", "messages", "y")  # what finetuning learns
NOT_INPUT = {"label", "labels", "score", "tags", "answers", "target", "y", "split", "group", "origin"}
CHUNK = 8192  # rows
FILLED = "columns"  # key of the names of those that any row has: the others need not be read


def write(path: Path, rows: Iterable[Row]) -> int:
    """Write rows and return their number. The bytes are a function of the rows; memory that of CHUNK of them."""
    schema = pa.schema(list(COLUMNS.items()))
    number, filled = 0, set[str]()
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        while chunk := list(islice(remaining, CHUNK)):
            file.write_table(pa.Table.from_pylist(chunk, schema=schema))
            number += len(chunk)
            filled.update(*chunk)
        file.add_key_value_metadata({FILLED: " ".join(name for name in COLUMNS if name in filled)})
    return number


def iterate(path: Path, numbers: npt.NDArray[np.int64] | None = None) -> Iterator[Row]:
    """The rows one after the other: all, or those of these numbers, which ascend. No others are decoded."""
    with pq.ParquetFile(path) as file:
        filled = file.metadata.metadata[FILLED.encode()].decode().split()
        end = 0
        for group in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(group).num_rows
            wanted = np.arange(begin, end)
            if numbers is not None:
                wanted = numbers[slice(*np.searchsorted(numbers, [begin, end]))]
            if len(wanted):
                found = file.read_row_group(group, columns=filled or ["origin"])
                for row in (found if len(wanted) == len(found) else found.take(wanted - begin)).to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}


def read(path: Path) -> list[Row]:
    """All rows."""
    return list(iterate(path))


def number_of(path: Path) -> int:
    """How many rows there are."""
    return int(pq.read_metadata(path).num_rows)


def texts(row: Row) -> list[str]:
    """All that pretraining can read in a row, each text by itself."""
    found = [row[name] for name in ("text", "pair", "context", "target") if name in row]
    if "words" in row:
        found.append(" ".join(row["words"]))
    if "messages" in row:
        found.append("\n".join(turn["content"] for turn in row["messages"]))
    return found


def input_key(row: Row) -> str:
    """A name for the input of a row, the same in every data set that has it: 16 hexadecimal digits."""
    inputs = {name: value for name, value in row.items() if name not in NOT_INPUT}
    content = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=bytes.hex)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def last_answer(messages: list[Row]) -> int:
    """The place of the last answer in a conversation, which follows something; the end where there is none."""
    return max((n for n, each in enumerate(messages) if n and each["role"] == "assistant"), default=len(messages))
