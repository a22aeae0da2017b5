"""All records of `ingest.source`, one after the other, each with its split if the source names one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
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
    strays,
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
ENDINGS = {
    ".txt": "blocks", ".md": "blocks", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".idx": "idx",
    **dict.fromkeys((".conll", ".bio", ".iob"), "conll"), ".xlsx": "xlsx",
    **dict.fromkeys(images.ENDINGS, "images"),
}  # fmt: skip

STEPS = {  # what to do with a file that is not read, by its ending
    **dict.fromkeys((".xls", ".ods"), "save it as .xlsx or .csv"),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".html", ".htm"), "save it as .txt"),
    **dict.fromkeys((".rar", ".7z", ".zip", ".tar", ".tgz", ".tbz2", ".txz"), "unpack it"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "write sqlite:///PATH#TABLE"),
}


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

    streams = [
        (part.name, split, records)
        for part in source_spec.parts(params.source)
        for split, records in _streams(part, find)
    ]
    _raise_all(errors)
    for part_name, split, records in streams:
        try:
            yield from ((split, replace(record, part=part_name) if part_name else record) for record in records)
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
        counts = {len(files) for files in columns.values()}
        if len(counts) > 1 and 0 not in counts:  # 0: an error that is already known
            numbers = ", ".join(f"{place}: {len(columns[column])}" for column, place in part.aligned)
            raise DataError(
                f"ingest.source: places that are read in parallel have different numbers of files ({numbers})",
                "correct ingest.source: file n of each has to belong to file n of the others",
            )
        files = [dict(zip(columns, group, strict=True)) for group in zip(*columns.values(), strict=False)]
        return [(part.split, _zip_columns(part, group)) for group in files]
    return [(part.split or split, records) for place in part.places for split, records in find(place, aligned=False)]


def _open(
    place: Place, params: IngestParams, resolve_input: ResolveInput, *, aligned: bool
) -> Iterator[tuple[str | None, Records]]:
    """(split, records) of each file or table of a place."""
    scheme, path = source_spec.scheme(place), source_spec.local_path(place)
    if path is None and scheme != "built-in":
        _check_allowed(place, "network", params)
    if path is not None:
        _check_local(place, path, params, resolve_input)
    if isinstance(place, HubDataset):
        location = None if path is None else resolve_input(path)
        yield from ((split, records()) for split, records in hub.read(place, location))
    elif place == "digits":
        yield None, images.digits()
    elif place == "pydocs":
        yield None, (Record(row["origin"], row) for row in pydocs.collect())
    elif scheme == "sql":
        yield None, sql.read(place, None if path is None else resolve_input(path))
    elif path == place.rstrip("/") and hub.is_saved(location := resolve_input(path)):
        yield from ((split, records()) for split, records in hub.read(HubDataset(path), location))
    else:
        outside = "outside" in params.allow
        matches = _members(remote.find(place)) if path is None else _local(place, path, resolve_input, outside=outside)
        kept, warning = matches, ""
        if len(matches) > 1:
            kept, warning = strays.leave_out(matches, [_format(file) for file in matches], params.format)
        streams = [_records(file, params, aligned=aligned) for file in kept]
        for number, (file, records) in enumerate(zip(kept, streams, strict=True)):
            empty = [Record(file.name, {}, "a file without rows")] if len(kept) > 1 and not aligned else []
            yield None, _with_warning(records, "" if number else warning, empty)


def _local(place: str, start: str, resolve_input: ResolveInput, *, outside: bool) -> list[File]:
    """The files of a place on this machine, of which `start` is fixed. A path that exists is no glob."""
    local = partial(files.local, outside=outside)
    if start != place.rstrip("/"):
        with suppress(UndeclaredInputError):
            if (location := resolve_input(place.rstrip("/"))).exists():
                return _members(local(place.rstrip("/"), "", location))
    location, pattern = resolve_input(start), place.removeprefix(start).strip("/")
    if location.is_file():
        return _members(local(start, "", location), pattern)
    return _members(local(start, pattern, location))


def _members(matches: list[File], pattern: str = "") -> list[File]:
    """The same files, with the members of an archive that match the pattern in its place."""
    return [member for file in matches for member in archives.members(file, pattern)]


def _with_warning(records: Records, warning: str, empty: list[Record]) -> Records:
    """The records, or those for a file without any; the first one with a warning about all files."""
    for record in chain(islice(records, 1), empty):
        text = "; ".join(filter(None, [warning, record.warning]))
        yield replace(record, warning=text)
        break
    yield from records


def _check_local(place: Place, path: str, params: IngestParams, resolve_input: ResolveInput) -> None:
    """Raise DataError where a path leads out of the workspace, by itself or by a link, and may not."""
    if path.startswith("/") or ".." in path.split("/"):
        _check_allowed(place, "outside", params)
    elif "outside" not in params.allow:
        location = resolve_input(path)
        files.check_links(path, location, [location])


def _check_allowed(place: Place, permission: Literal["network", "outside"], params: IngestParams) -> None:
    """Raise DataError where `ingest.allow` lacks the permission that a place needs."""
    if permission not in params.allow:
        reason = {"network": "is read over the network", "outside": "is outside the workspace"}[permission]
        raise DataError(f"ingest.source: {place} {reason}", f"add {permission} to ingest.allow in params.yaml")


def _format(file: File) -> str:
    """The format by the ending of the name, "" if none is known."""
    return ENDINGS.get(file.ending, "")


def _records(file: File, params: IngestParams, *, aligned: bool) -> Records:
    """The records of a file. Aligned text files are read by lines, empty ones included."""
    file_format: str = params.format
    if file_format == "auto":
        file_format = _format(file) or ("lines" if aligned else "")
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
        raise DataError(
            f"ingest.source: {file.name} is the file of DVC that stands for {data}, not the data",
            f"name {data} in ingest.source, then: dvc pull {file.name}",
        )
    if file_format not in readers:
        raise DataError(
            f"ingest.source: {file.name}: no format is known for the ending `{file.ending}`",
            STEPS.get(file.ending, f"set ingest.format to one of {', '.join(readers)}"),
        )
    records = readers[file_format]()
    if aligned or file_format != "lines":
        return records
    return (record for record in records if record.values["text"].strip())


def _zip_columns(part: Part, columns: dict[str, Records]) -> Records:
    """Join the n-th records of all places. Raises DataError where the places have different numbers of records."""
    streams = list(columns.values())
    for number, row in enumerate(zip_longest(*streams)):
        if None in row:
            counts = [number + (r is not None) + sum(1 for _ in s) for r, s in zip(row, streams, strict=True)]
            rows = ", ".join(f"{place} has {count}" for (_, place), count in zip(part.aligned, counts, strict=True))
            raise DataError(
                f"ingest.source: files that are read in parallel have different numbers of rows: {rows}",
                "correct or download the files: row n of each has to belong to row n of the others",
            )
        problem = next((record.problem for record in row if record.problem), "")
        values = {} if problem else {column: _value(r, column) for column, r in zip(columns, row, strict=True)}
        yield Record(row[0].origin, values, problem, "; ".join(filter(None, (record.warning for record in row))))


def _value(record: Record, column: str) -> object:
    """The column of that name, or the only column of the record. Raises DataError if there is neither."""
    if column not in record.values and len(record.values) != 1:
        raise DataError(
            f"ingest.source: {record.origin} has no column {column}; its columns are {', '.join(record.values)}",
            f"name the column {column}, or write its values into a file of their own",
        )
    return record.values[column] if column in record.values else next(iter(record.values.values()))
