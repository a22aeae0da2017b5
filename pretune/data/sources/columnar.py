"""Tables in Arrow's forms: .parquet, .arrow and .feather, read a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pretune.data.sources.files import File
from pretune.data.sources.record import Record, Records
from pretune.errors import DataError

BATCH = 1024  # records


def parquet(file: File) -> Records:
    """A .parquet file."""
    with file.open_raw() as raw:
        try:
            table = pq.ParquetFile(raw)
        except pa.ArrowInvalid as error:
            raise DataError(f"{file.name}: not Parquet ({error})", "fetch the file anew") from None
        yield from _records(file.name, table.schema_arrow, table.iter_batches(BATCH))


def arrow(file: File) -> Records:
    """An .arrow or .feather file, in Arrow's file format or as a stream (which `datasets` writes)."""
    with file.open_raw() as raw:
        try:
            reader = pa.ipc.open_file(raw)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            raw.seek(0)
            try:
                reader = pa.ipc.open_stream(raw)
            except pa.ArrowInvalid as error:
                raise DataError(f"{file.name}: not Arrow ({error})", "fetch the file anew") from None
            batches = iter(reader)
        yield from _records(file.name, reader.schema, batches)


def _records(name: str, schema: Any, batches: Iterator[Any]) -> Records:
    classes = class_names(schema)
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):
            for values in batch.slice(start, BATCH).to_pylist():
                number += 1
                named = {key: names[values[key]] for key, names in classes.items() if _within(values[key], names)}
                yield Record(f"{name}:{number}", values | named)


def class_names(schema: Any) -> dict[str, list[str]]:
    """{column: names of its numbers}, as `datasets` leaves them in a file's metadata."""
    metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = metadata.get("info", {}).get("features", {})
    return {name: each["names"] for name, each in features.items() if isinstance(each, dict) and each.get("names")}


def _within(value: object, names: list[str]) -> bool:
    return isinstance(value, int) and 0 <= value < len(names)
