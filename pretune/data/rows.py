"""Rows of a data set: mappings from column to value, with fixed names and types, stored as Parquet files.

A column that a row lacks is not in its mapping: None never stands for a value.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pretune.data import storage

Row = dict[str, Any]

MESSAGE = pa.struct({
    "role": pa.string(),  # system, developer, user, assistant or tool
    "content": pa.string(),  # "" where a message holds calls of tools only
    "reasoning": pa.string(),  # what the assistant thought before it answered
    "tool_calls": pa.string(),  # JSON: [{"id", "type": "function", "function": {"name", "arguments": an object}}]
    "tool_call_id": pa.string(),  # of a message of a tool: the call that it answers
    "name": pa.string(),  # of a message of a tool: its function
    "weight": pa.float64(),  # of the loss on an answer; 1 where it lacks
})  # fmt: skip
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
    "messages": pa.list_(MESSAGE),  # a conversation; with `chosen` what comes before it
    "tools": pa.string(),  # JSON: the functions that the assistant may call, as a list of their schemas
    "chosen": pa.list_(MESSAGE),  # the better answer to `messages`, and the worse
    "rejected": pa.list_(MESSAGE),
    "desirable": pa.bool_(),  # whether the last answer in `messages` is a good one
    "negatives": pa.list_(pa.string()),  # texts that are not what `text` looks for, beside `pair`, which is
    "image": pa.binary(),  # a PNG file
    "x": pa.list_(pa.float64()),  # numeric columns, and the numbers to predict from them
    "y": pa.list_(pa.float64()),
    "split": pa.string(),  # train, validation, test or corpus, if the source says so
    "group": pa.string(),  # rows of one group stay in one split
    "part": pa.string(),  # of a mixture
    "origin": pa.string(),  # file and line
}
SUPERVISION = ("label", "labels", "score", "tags", "answers", "target", "messages", "chosen", "y")  # of finetuning
CONVERSATIONS = ("messages", "chosen", "rejected")
NOT_INPUT = {"label", "labels", "score", "tags", "answers", "target", "chosen", "rejected", "desirable", "negatives",
             "y", "split", "group", "part", "origin"}  # fmt: skip
CLASSES = ("label", "labels", "tags")  # columns that hold names of classes
CHUNK = 8192  # rows
PART = 2**30  # bytes in memory, compressed some four times; a part ends with the chunk that reaches this number
FILLED = "columns"  # metadata key: names of the columns that occur; the others are not read
FEATURES = "huggingface"  # metadata key of `datasets`: what the columns of a file stand for


def write(path: Path, rows: Iterable[Row], address: str = "") -> int:
    """Write rows and return their number. The bytes are a function of the rows; CHUNK rows are held in memory.

    With an address they go to the storage there, part by part: `NAME-00000.parquet` and so on.
    """
    schema = pa.schema(list(COLUMNS.items()))
    if not address:
        return _write(path, rows, schema)
    remaining, total, number = iter(rows), 0, 0
    while (first := next(remaining, None)) is not None:
        part = path.with_name(f"{path.stem}-{number:05d}{path.suffix}")
        count = _write(part, chain([first], remaining), schema, most=PART)
        storage.store(part, address, rows=count)
        total, number = total + count, number + 1
    return total


def write_features(path: Path, rows: Iterable[Row], columns: Collection[str], classes: dict[str, list[str]]) -> int:
    """Write rows as `datasets.load_dataset` opens them, and return their number; `read` returns the same rows.

    columns: the names of those that the file has. classes: {column: the names of its classes in the order of their
    ids}, which become `ClassLabel`; images become `Image`.
    """
    features: dict[str, Any] = {}
    types = {name: kind for name, kind in COLUMNS.items() if name in columns}
    for name in types:
        if name in classes:
            one = {"names": classes[name], "_type": "ClassLabel"}
            features[name] = one if name == "label" else {"feature": one, "_type": "List"}
            types[name] = pa.int64() if name == "label" else pa.list_(pa.int64())
        elif name == "image":
            features[name] = {"_type": "Image"}
            types[name] = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {FEATURES: json.dumps({"info": {"features": features}}, ensure_ascii=False)}
    ids = {name: {label: number for number, label in enumerate(classes[name])} for name in classes}
    return _write(path, (_encoded(row, ids) for row in rows), pa.schema(list(types.items()), metadata))


def _write(path: Path, rows: Iterable[Row], schema: Any, *, most: float = math.inf) -> int:
    """Write rows until their tables have `most` bytes; return their number."""
    count, size, filled = 0, 0, set[str]()
    remaining = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        while size < most and (chunk := list(islice(remaining, CHUNK))):
            table = pa.Table.from_pylist(chunk, schema=schema)
            file.write_table(table)
            count, size = count + len(chunk), size + table.nbytes
            filled.update(*chunk)
        file.add_key_value_metadata({FILLED: " ".join(name for name in COLUMNS if name in filled)})
    return count


def _encoded(row: Row, ids: dict[str, dict[str, int]]) -> Row:
    """The row as `datasets` stores it: numbers of classes, and images as {bytes, path}."""
    encoded = {name: _mapped(row[name], ids[name].__getitem__) for name in ids if name in row}
    return row | encoded | ({"image": {"bytes": row["image"], "path": None}} if "image" in row else {})


def _decoded(row: Row, classes: dict[str, list[str]]) -> Row:
    """The row that `_encoded` was given; a row that was not encoded as it is."""
    decoded = {name: _mapped(row[name], classes[name].__getitem__) for name in classes if name in row}
    image = row.get("image")
    return row | decoded | ({"image": image["bytes"]} if isinstance(image, dict) else {})


def _filled(message: Row) -> Row:
    """The message without the keys that it lacks."""
    return {name: value for name, value in message.items() if value is not None}


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def iterate(path: Path, numbers: npt.NDArray[np.int64] | None = None) -> Iterator[Row]:
    """The rows one after the other: all, or those with these ascending numbers. Other rows are not decoded.

    Of rows in storage, the parts that hold none of them are not fetched.
    """
    begin = 0
    for part in _parts(path):
        end = begin + storage.facts(part).get("rows", 0)
        if numbers is None or end == begin:
            yield from _iterate(part, numbers)
        elif len(selected := numbers[slice(*np.searchsorted(numbers, [begin, end]))]):
            yield from _iterate(part, selected - begin)
        begin = end


def digest(path: Path) -> str:
    """The MD5 of a file of rows; of rows in storage, the MD5 of those of their parts."""
    parts = [storage.facts(part).get("md5", "") for part in _parts(path)]
    if any(parts):
        return hashlib.md5("".join(parts).encode(), usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def exist(path: Path) -> bool:
    """Whether there are rows at `path`, here or in storage."""
    return path.is_file() or _parts(path) != [path]


def _parts(path: Path) -> list[Path]:
    """The files of rows in storage; else the file itself."""
    if path.exists():
        return [path]
    return storage.paths(path.parent, f"{path.stem}-*{path.suffix}") or [path]


def _iterate(path: Path, numbers: npt.NDArray[np.int64] | None) -> Iterator[Row]:
    with storage.read(path, pq.ParquetFile) as file:
        metadata = file.metadata.metadata
        filled = metadata[FILLED.encode()].decode().split()
        features = json.loads(metadata.get(FEATURES.encode(), b"{}")).get("info", {}).get("features", {})
        classes = {name: features[name].get("feature", features[name])["names"] for name in CLASSES if name in features}
        end = 0
        for group in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(group).num_rows
            selected = np.arange(begin, end)
            if numbers is not None:
                selected = numbers[slice(*np.searchsorted(numbers, [begin, end]))]
            if len(selected):
                table = file.read_row_group(group, columns=filled or ["origin"])
                for values in (table if len(selected) == len(table) else table.take(selected - begin)).to_pylist():
                    row = {name: value for name, value in values.items() if value is not None}
                    row |= {name: [_filled(turn) for turn in row[name]] for name in CONVERSATIONS if name in row}
                    yield _decoded(row, classes) if features else row


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
    if turns := row.get("messages", []) + row.get("chosen", []):
        parts.append("\n".join(turn["content"] for turn in turns if turn["content"]))
    return parts


def is_supervised(row: Row) -> bool:
    """Whether a row has a target for finetuning; of a conversation, an answer."""
    if any(name in row for name in SUPERVISION if name != "messages"):
        return True
    messages = row.get("messages", [])
    return last_answer(messages) < len(messages)


def input_key(row: Row) -> str:
    """A hash of a row's input, the same in every data set: 16 hexadecimal digits."""
    inputs = {name: value for name, value in row.items() if name not in NOT_INPUT}
    content = json.dumps(inputs, sort_keys=True, ensure_ascii=False, default=bytes.hex)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def last_answer(messages: list[Row]) -> int:
    """The index of the last answer in a conversation, after at least one turn; the number of turns if there is none."""
    answers = (index for index, message in enumerate(messages) if index and message["role"] == "assistant")
    return max(answers, default=len(messages))
