"""All records of `ingest.source`, one after the other, each with its split if the source names one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pretune.config import source_spec
from pretune.config.source_spec import HubDataset, Part, Place
from pretune.data.ingest import pydocs
from pretune.data.ingest.sources import (
    archives,
    columnar,
    conll,
    files,
    hub,
    images,
    remote,
    sql,
    tables,
    text,
    workbook,
)
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError, PretuneError, UndeclaredInputError

if TYPE_CHECKING:
    from pretune.config.data import IngestParams

ResolveInput = Callable[[str], Path]  # from a path in params.yaml to its location; refuses paths not in dvc.yaml
MAX_ERRORS = 10  # unreadable files after which reading stops
SHOWN = 10  # names in a warning
ENDINGS = {
    ".txt": "blocks", ".md": "blocks", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".idx": "idx",
    **dict.fromkeys((".conll", ".bio", ".iob"), "conll"), ".xlsx": "xlsx",
    **dict.fromkeys(images.ENDINGS, "images"),
}  # fmt: skip

KINDS = {"blocks": "texts", "images": "images", "idx": "arrays"} | dict.fromkeys(
    ("csv", "tsv", "jsonl", "json", "parquet", "arrow", "conll", "xlsx"), "tables"
)  # what the files of a folder are


def read(params: IngestParams, resolve_input: ResolveInput) -> Iterator[tuple[str | None, Record]]:
    """Yield (split, record). Raises DataError for places that are missing, not allowed or of an unknown format.

    All places are checked before the first record is read. Reading continues after a file that cannot be read, so that
    the error lists all such files, at most MAX_ERRORS.
    """
    errors: list[PretuneError] = []

    def find(place: Place, *, aligned: bool) -> list[tuple[str | None, Records]]:
        try:
            return list(_open(place, params, resolve_input, aligned=aligned))
        except PretuneError as error:
            errors.append(error)
            return []

    streams = [stream for part in source_spec.parts(params.source) for stream in _streams(part, find)]
    _raise_all(errors)
    for split, records in streams:
        try:
            yield from ((split, record) for record in records)
        except DataError as error:
            errors.append(error)
            if len(errors) == MAX_ERRORS:
                break
    _raise_all(errors)


def _raise_all(errors: list[PretuneError]) -> None:
    """Raise all errors as one, of the class of the first."""
    if errors:
        steps = dict.fromkeys(error.next_step for error in errors if error.next_step)
        raise type(errors[0])([problem for error in errors for problem in error.problems], "; ".join(steps))


def _streams(part: Part, find: Callable[..., list[tuple[str | None, Records]]]) -> list[tuple[str | None, Records]]:
    """(split, records) of each file or table of a part; aligned places give one stream."""
    if part.aligned:
        columns = {column: [records for _, records in find(place, aligned=True)] for column, place in part.aligned}
        return [(part.split, _zip_columns(part, columns))]
    return [(part.split or split, records) for place in part.places for split, records in find(place, aligned=False)]


def _open(
    place: Place, params: IngestParams, resolve_input: ResolveInput, *, aligned: bool
) -> Iterator[tuple[str | None, Records]]:
    """(split, records) of each file or table of a place."""
    scheme, path = source_spec.scheme(place), source_spec.local_path(place)
    if path is None and scheme != "built-in":
        _check_allowed(place, "network", params)
    if path is not None and (path.startswith("/") or ".." in path.split("/")):
        _check_allowed(place, "outside", params)
    if isinstance(place, HubDataset):
        location = None if path is None else resolve_input(path)
        yield from ((split, records()) for split, records in hub.read(place, location))
    elif place == "digits":
        yield None, images.digits()
    elif place == "pydocs":
        yield None, (Record(row["origin"], row) for row in pydocs.collect())
    elif scheme == "sql":
        yield None, sql.read(place, None if path is None else resolve_input(path))
    else:
        matches = remote.find(place) if path is None else _local(place, path, resolve_input)
        matches = [member for file in matches for member in archives.members(file)]
        kept, warning = _without_strays(matches) if len(matches) > 1 and params.format == "auto" else (matches, "")
        streams = [_records(file, params, aligned=aligned) for file in kept]
        yield from ((None, _with_warning(records, warning * (not n))) for n, records in enumerate(streams))


def _local(place: str, start: str, resolve_input: ResolveInput) -> list[File]:
    """The files of a place on this machine, of which `start` is fixed. A path that exists is no glob."""
    if start != place.rstrip("/"):
        with suppress(UndeclaredInputError):
            if (location := resolve_input(place.rstrip("/"))).exists():
                return files.local(place.rstrip("/"), "", location)
    location, pattern = resolve_input(start), place.removeprefix(start).strip("/")
    if start.endswith(source_spec.ARCHIVES) and location.is_file():
        return [member for file in files.local(start, "", location) for member in archives.members(file, pattern)]
    return files.local(start, pattern, location)


def _without_strays(matches: list[File]) -> tuple[list[File], str]:
    """The files of a folder or glob that are of its most frequent kind, and a warning that names the others."""
    kinds = [KINDS.get(ENDINGS.get(file.ending, ""), "") for file in matches]
    if not any(kinds):
        return matches, ""
    main = Counter(filter(None, kinds)).most_common(1)[0][0]
    kept = [file for file, kind in zip(matches, kinds, strict=True) if kind == main]
    strays = [file.name for file, kind in zip(matches, kinds, strict=True) if kind != main]
    folders = sorted({PurePosixPath(file.name).parent.name for file in kept})
    warnings = []
    if strays:
        more = f" and {len(strays) - SHOWN} more" if len(strays) > SHOWN else ""
        warnings.append(f"{len(strays)} files are no {main} and are left out: {', '.join(strays[:SHOWN])}{more}")
    if main == "texts" and len(folders) > 1:
        names = ", ".join(folders[:SHOWN])
        warnings.append(f"the texts lie in the folders {names}; ingest.format: folders makes these their labels")
    return kept, "; ".join(warnings)


def _with_warning(records: Records, warning: str) -> Records:
    """The same records, the first one with a warning about all of them."""
    for record in records:
        text = "; ".join(filter(None, [warning, record.warning]))
        yield replace(record, warning=text) if warning else record
        warning = ""


def _check_allowed(place: Place, permission: Literal["network", "outside"], params: IngestParams) -> None:
    """Raise DataError where `ingest.allow` lacks the permission that a place needs."""
    if permission not in params.allow:
        reason = {"network": "is read over the network", "outside": "is outside the workspace"}[permission]
        raise DataError(f"ingest.source: {place} {reason}", f"add {permission} to ingest.allow in params.yaml")


def _records(file: File, params: IngestParams, *, aligned: bool) -> Records:
    """The records of a file. Aligned text files are read by lines, empty ones included."""
    file_format: str = params.format
    if file_format == "auto":
        file_format = ENDINGS.get(file.ending, "lines" if aligned else "")
        file_format = "lines" if aligned and file_format == "blocks" else file_format
    readers: dict[str, Callable[[], Records]] = {
        "text": lambda: text.whole(file, params.encoding),
        "lines": lambda: text.lines(file, params.encoding),
        "blocks": lambda: text.blocks(file, params.encoding),
        "folders": lambda: text.in_folder(file, params.encoding),
        "csv": lambda: tables.comma(file, params.encoding, params.delimiter, header=params.header),
        "tsv": lambda: tables.tab(file, params.encoding, params.delimiter, header=params.header),
        "conll": lambda: conll.sentences(file, params.encoding),
        "xlsx": lambda: workbook.sheet(file, header=params.header),
        "jsonl": lambda: tables.json_lines(file, params.encoding),
        "json": lambda: tables.json_file(file, params.encoding),
        "parquet": lambda: columnar.parquet(file),
        "arrow": lambda: columnar.arrow(file),
        "images": lambda: images.image(file),
        "idx": lambda: images.idx(file),
    }
    if file.ending == ".dvc":
        data = file.name.removesuffix(".dvc")
        raise DataError(f"ingest.source: {file.name} is DVC's note of {data}, not the data", f"name {data}; dvc pull")
    if file_format not in readers:
        raise DataError(
            f"ingest.source: {file.name}: no format is known for the ending `{file.ending}`",
            f"set ingest.format to one of {', '.join(readers)}",
        )
    records = readers[file_format]()
    if aligned or file_format != "lines":
        return records
    return (record for record in records if record.values["text"].strip())


def _zip_columns(part: Part, columns: dict[str, list[Records]]) -> Records:
    """Join the n-th records of all places. Raises DataError where the places have different numbers of records."""
    streams = [chain.from_iterable(records) for records in columns.values()]
    for number, row in enumerate(zip_longest(*streams), start=1):
        missing = [place for (_, place), record in zip(part.aligned, row, strict=True) if record is None]
        if missing:
            raise DataError(
                f"ingest.source: {missing[0]} ends after {number - 1} rows, but other files do not: rows do not match",
                "download the files again",
            )
        values = {column: _value(record, column) for column, record in zip(columns, row, strict=True)}
        yield Record(row[0].origin, values, next((record.problem for record in row if record.problem), ""))


def _value(record: Record, column: str) -> object:
    """The column of that name, or the only column of the record."""
    if column in record.values:
        return record.values[column]
    return next(iter(record.values.values())) if len(record.values) == 1 else None
