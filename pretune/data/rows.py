"""Rows of a data set: mappings from column to value, with fixed names and types, stored as Parquet files.

A column that a row lacks is not in its mapping: None never stands for a value.
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
    "text": pa.string(),
    "pair": pa.string(),  # the second of two texts
    "label": pa.string(),  # one class
    "labels": pa.list_(pa.string()),  # any number of classes
    "score": pa.float64(),  # a number to predict
    "words": pa.list_(pa.string()),  # a text in words, with one of `tags` each
    "tags": pa.list_(pa.string()),
    "question": pa.string(),  # about `context`
    "context": pa.string(),
    "answers": pa.list_(pa.struct([("text", pa.string()), ("start", pa.int64())])),  # spans of `context`
    "target": pa.string(),  # the text to write
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),  # a conversation
    "image": pa.binary(),  # a PNG file
    "x": pa.list_(pa.float64()),  # numeric columns, and the numbers to predict from them
    "y": pa.list_(pa.float64()),
    "split": pa.string(),  # train, validation, test or corpus, if the source says so
    "group": pa.string(),  # rows of one group stay in one split
    "origin": pa.string(),  # file and line
}
SUPERVISION = ("label", "labels", "score", "tags", "answers", "target", "messages", "y")  # targets of finetuning
NOT_INPUT = {"label", "labels", "score", "tags", "answers", "target", "y", "split", "group", "origin"}
CHUNK = 8192  # rows
FILLED = "columns"  # metadata key: names of the columns that occur; the others are not read


def write(path: Path, rows: Iterable[Row]) -> int:
    """Write rows and return their number. The bytes are a function of the rows; CHUNK rows are held in memory."""
    schema = pa.schema(list(COLUMNS.items()))
    count, filled = 0, set[str]()
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        while chunk := list(islice(remaining, CHUNK)):
            file.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
            filled.update(*chunk)
        file.add_key_value_metadata({FILLED: " ".join(name for name in COLUMNS if name in filled)})
    return count


def iterate(path: Path, numbers: npt.NDArray[np.int64] | None = None) -> Iterator[Row]:
    """The rows one after the other: all, or those with these ascending numbers. Other rows are not decoded."""
    with pq.ParquetFile(path) as file:
        filled = file.metadata.metadata[FILLED.encode()].decode().split()
        end = 0
        for group in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(group).num_rows
            selected = np.arange(begin, end)
            if numbers is not None:
                selected = numbers[slice(*np.searchsorted(numbers, [begin, end]))]
            if len(selected):
                table = file.read_row_group(group, columns=filled or ["origin"])
                for row in (table if len(selected) == len(table) else table.take(selected - begin)).to_pylist():
                    yield {name: value for name, value in row.items() if value is not None}


def read(path: Path) -> list[Row]:
    """All rows."""
    return list(iterate(path))


def count_rows(path: Path) -> int:
    """The number of rows in a file."""
    return int(pq.read_metadata(path).num_rows)


def texts(row: Row) -> list[str]:
    """The texts of a row that pretraining can read, each by itself."""
    parts = [row[name] for name in ("text", "pair", "context", "target") if name in row]
    if "words" in row:
        parts.append(" ".join(row["words"]))
    if "messages" in row:
        parts.append("\n".join(turn["content"] for turn in row["messages"]))
    return parts


def input_key(row: Row) -> str:
    """A hash of a row's input, the same in every data set: 16 hexadecimal digits."""
    inputs = {name: value for name, value in row.items() if name not in NOT_INPUT}
    content = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=bytes.hex)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def last_answer(messages: list[Row]) -> int:
    """The index of the last answer in a conversation, after at least one turn; the number of turns if there is none."""
    answers = (index for index, message in enumerate(messages) if index and message["role"] == "assistant")
    return max(answers, default=len(messages))
