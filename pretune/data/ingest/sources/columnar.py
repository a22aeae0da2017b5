"""Columnar tables: .parquet, .arrow and .feather, read a batch at a time.

What the columns stand for is in the metadata that `datasets` writes, and read by it: classes become their names.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretune.data.ingest import conversations
from pretune.data.ingest.layouts import TOOLS
from pretune.data.ingest.sources.files import File, limit
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

BATCH = 64  # records, of which each may hold images
BUFFER = 2**20  # bytes; Arrow would read whole row groups ahead, and a file may be one
MAGIC = b"ARROW1"  # Arrow's file format begins with it; a stream does not
STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # a continuation of length 0 (Arrow columnar format, IPC)
ROW = 100  # bytes that count for a row besides its texts
UNREADABLE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError, ArithmeticError)  # the year 60000
PLAIN = "if you trust it, write it anew, uncompressed and without dictionaries"
INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name: no column
FEATURES = b"huggingface"  # metadata key of `datasets`

Reader = Callable[[Any], Any]  # from a value of Arrow to that of a record; raises ValueError with the problem


def parquet(file: File) -> Records:
    """A .parquet file."""
    with _seekable(file, "Parquet") as raw:
        size = raw.seek(0, os.SEEK_END)
        table = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER)
        groups = (table.metadata.row_group(number) for number in range(table.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) + ROW * table.metadata.num_rows > limit(size):
            raise file.bomb(PLAIN)
        rows = records(file.name, table.iter_batches(BATCH), features(file.name, table.schema_arrow))
        yield from _bounded(file, size, rows)


def arrow(file: File) -> Records:
    """An .arrow or .feather file, in Arrow's file format or as a stream (which `datasets` writes)."""
    with _seekable(file, "Arrow") as raw:
        size = raw.seek(0, os.SEEK_END)
        raw.seek(0)
        if raw.read(len(MAGIC)) == MAGIC:
            table = pa.ipc.open_file(raw)
            batches = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            _check_complete(raw)
            table = batches = pa.ipc.open_stream(raw)
        rows = records(file.name, _counted(file, size, batches), features(file.name, table.schema))
        yield from _bounded(file, size, rows)


def _counted(file: File, size: int, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, as long as the rows that they declare are not too many for a file of `size` bytes.

    Each is validated in full: Arrow trusts the places of texts that a batch names, which may lie outside of it.
    """
    left = limit(size)
    for batch in batches:
        left -= ROW * batch.num_rows
        if left < 0:
            raise file.bomb(PLAIN)
        batch.validate(full=True)
        yield batch


def _bounded(file: File, size: int, rows: Records) -> Records:
    """The records of a file of `size` bytes. A dictionary stands for any number of texts, and nulls take no bytes."""
    left = limit(size)
    for record in rows:
        left -= ROW + sum(len(value) for value in record.values.values() if isinstance(value, str | bytes))
        if left < 0:
            raise file.bomb(PLAIN)
        yield record


@contextmanager
def _seekable(file: File, format_name: str) -> Iterator[BinaryIO]:
    """Open a file for random access. Raises DataError where Arrow cannot read it."""
    try:
        with file.seekable() as raw:
            yield raw
    except UNREADABLE as error:
        raise DataError(f"{file.name}: cannot be read as {format_name} ({error})", "download the file again") from None


def check_stream(path: Path) -> None:
    """Raise DataError for an Arrow stream that is truncated, which no reader of Arrow notices between two batches."""
    with _seekable(File(path.name, lambda: path.open("rb")), "Arrow") as raw:
        if raw.read(len(MAGIC)) != MAGIC:
            _check_complete(raw)


def _check_complete(raw: BinaryIO) -> None:
    """Raise ArrowInvalid for a truncated stream: one cut between two batches can be told by its last bytes alone."""
    raw.seek(-min(len(STREAM_END), raw.seek(0, os.SEEK_END)), os.SEEK_END)
    if raw.read() != STREAM_END:
        raise pa.ArrowInvalid("the end-of-stream marker is missing")
    raw.seek(0)


def features(name: str, schema: Any) -> Mapping[str, Any]:
    """{column: feature} as `datasets` reads them from the metadata of a file; nothing for a file of other software.

    A column keeps its feature where other software has changed its type, say from int64 to int8. Raises DataError for
    two columns of one name, and for metadata that `datasets` does not understand.
    """
    repeated = sorted({column for column in schema.names if schema.names.count(column) > 1})
    if repeated:
        raise DataError(f"{name}: two columns are called {', '.join(repeated)}", f"rename one in {name}")
    metadata = (schema.metadata or {}).get(FEATURES)
    if metadata is None:
        return {}
    from datasets import Features

    try:
        return dict(Features.from_dict(json.loads(metadata).get("info", {}).get("features") or {}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{name}: its metadata of datasets cannot be read ({type(error).__name__}: {error})",
            f"write {name} anew with another version of datasets",
        ) from None


def records(name: str, batches: Iterable[Any], columns: Mapping[str, Any]) -> Records:
    """The rows of Arrow batches or tables, in plain Python values.

    columns: {name: feature}. A class becomes its name, and -1, which `datasets` writes for an unknown one, None. A
    number that no class has, and an image that is a path alone, is a problem of its record.
    """
    readers = {column: reader for column, feature in columns.items() if (reader := _reader(feature))}
    number = 0
    for batch in batches:
        kept = batch.select([column for column in batch.schema.names if not INDEX.fullmatch(column)])
        plain = [column for column in kept.schema.names if _is_plain(kept.schema.field(column).type)]
        for start in range(0, kept.num_rows, BATCH):
            for values in kept.slice(start, BATCH).to_pylist():
                number += 1
                values |= {column: _python(values[column]) for column in values if column not in plain}
                values |= {
                    column: conversations.without_nulls(value)
                    for column, value in values.items()
                    if isinstance(value, list) and (column in TOOLS or conversations.is_conversation(value))
                }
                yield _record(f"{name}:{number}", values, readers)


def _record(origin: str, values: dict[str, Any], readers: dict[str, Reader]) -> Record:
    problem = ""
    for column, reader in readers.items():
        if values.get(column) is not None:
            try:
                values[column] = reader(values[column])
            except ValueError as error:
                problem = problem or f"{column} {error}"
    return Record(origin, values, problem)


def _reader(feature: Any) -> Reader | None:
    """What makes names of the classes in a value, and finds images without bytes; None if there is nothing to do."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return partial(_class, feature.names)
    if isinstance(feature, datasets.Image):
        return _image
    if isinstance(feature, datasets.List | datasets.LargeList):
        item = _reader(feature.feature)
        return item and partial(_items, item)
    if isinstance(feature, dict):
        parts = {key: reader for key, part in feature.items() if (reader := _reader(part))}
        return partial(_parts, parts) if parts else None
    return None


def _class(names: list[str], value: Any) -> Any:
    """The name of a class; a value that is no whole number as it is."""
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(value, int):
        return value
    if not -1 <= value < len(names):
        raise ValueError(f"has a number without a class: {value}, of {len(names)} classes")
    return None if value == -1 else names[value]


def _image(value: Any) -> Any:
    path = value["path"] if isinstance(value, dict) and value["bytes"] is None else value
    if not isinstance(path, str):
        return value
    raise ValueError(f"is the path of an image, not the image: {PurePath(path).name}")


def _items(reader: Reader, value: Any) -> Any:
    return [item if item is None else reader(item) for item in value] if isinstance(value, list) else value


def _parts(readers: dict[str, Reader], value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return value | {key: reader(value[key]) for key, reader in readers.items() if value.get(key) is not None}


def _is_plain(kind: Any) -> bool:
    """Whether Python's values of an Arrow type are those that JSON has, or bytes."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind.num_fields and not pa.types.is_map(kind):
        return all(_is_plain(kind.field(number).type) for number in range(kind.num_fields))
    own = (pa.types.is_temporal, pa.types.is_decimal, pa.types.is_map, pa.types.is_float16)
    return not isinstance(kind, pa.BaseExtensionType) and not any(check(kind) for check in own)


def _python(value: Any) -> Any:
    """A value as JSON has it: moments and identifiers as texts (ISO 8601), exact decimals as numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_python(item) for item in value]
    if isinstance(value, dict):
        return {key: _python(item) for key, item in value.items()}
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return str(value) if isinstance(value, dt.timedelta | uuid.UUID) else value
