"""Columnar tables: .parquet, .arrow and .feather, read a batch at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

BATCH = 1024  # records
MAGIC = b"ARROW1"  # Arrow's file format begins with it; a stream does not
STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # a continuation of length 0 (Arrow columnar format, IPC)


def parquet(file: File) -> Records:
    """A .parquet file."""
    with _seekable(file, "Parquet") as raw:
        table = pq.ParquetFile(raw)
        yield from _records(file.name, table.schema_arrow, table.iter_batches(BATCH))


def arrow(file: File) -> Records:
    """An .arrow or .feather file, in Arrow's file format or as a stream (which `datasets` writes)."""
    with _seekable(file, "Arrow") as raw:
        if raw.read(len(MAGIC)) == MAGIC:
            table = pa.ipc.open_file(raw)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            _check_complete(raw)
            table = batches = pa.ipc.open_stream(raw)
        yield from _records(file.name, table.schema, batches)


@contextmanager
def _seekable(file: File, format_name: str) -> Iterator[BinaryIO]:
    """Open a file for random access. Raises DataError where Arrow cannot read it."""
    try:
        with file.seekable() as raw:
            yield raw
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.name}: cannot be read as {format_name} ({error})", "download the file again") from None


def _check_complete(raw: BinaryIO) -> None:
    """Raise ArrowInvalid for a truncated stream: one cut between two batches can be told by its last bytes alone."""
    raw.seek(-min(len(STREAM_END), raw.seek(0, os.SEEK_END)), os.SEEK_END)
    if raw.read() != STREAM_END:
        raise pa.ArrowInvalid("the end-of-stream marker is missing")
    raw.seek(0)


def _records(name: str, schema: Any, batches: Iterator[Any]) -> Records:
    classes = class_names(schema)
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for values in batch.slice(start, BATCH).to_pylist():
                number += 1
                labels = {key: names[values[key]] for key, names in classes.items() if _is_index(values[key], names)}
                yield Record(f"{name}:{number}", values | labels)


def class_names(schema: Any) -> dict[str, list[str]]:
    """{column: names of its classes}, which `datasets` stores in the metadata of a file."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    return {
        column: feature["names"]
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("names")
    }


def _is_index(value: object, names: list[str]) -> bool:
    return isinstance(value, int) and 0 <= value < len(names)
