"""All records that `ingest.source` means, one after the other, each with the split it is given, if any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from pretune.config import source_spec
from pretune.config.source_spec import Part
from pretune.data.ingest import pydocs
from pretune.data.ingest.sources import columnar, files, hub, images, remote, sql, tables, text
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError, PretuneError

if TYPE_CHECKING:
    from pretune.config.data import IngestParams

Declared = Callable[[str], Path]  # from a path as it is written to where it lies; refuses what dvc.yaml does not list
MOST = 10  # files that cannot be read in one message
ENDINGS = {
    ".txt": "blocks", ".md": "blocks", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".idx": "idx",
    **dict.fromkeys(images.ENDINGS, "images"),
}  # fmt: skip


def read(params: IngestParams, declared: Declared) -> Iterator[tuple[str | None, Record]]:
    """Yield (split, record). Raises DataError for places that are missing, not allowed or of no known format.

    Every place is looked for before the first record, and a file that breaks off does not hide the next:
    the error tells all of them, MOST at once.
    """
    errors: list[PretuneError] = []

    def find(place: str, *, aligned: bool) -> list[tuple[str | None, Records]]:
        try:
            return list(_place(place, params, declared, aligned=aligned))
        except PretuneError as error:
            errors.append(error)
            return []

    streams = [stream for part in source_spec.parts(params.source) for stream in _streams(part, find)]
    _raise(errors)
    for split, records in streams:
        try:
            yield from ((split, record) for record in records)
        except DataError as error:
            errors.append(error)
            if len(errors) == MOST:
                break
    _raise(errors)


def _raise(errors: list[PretuneError]) -> None:
    """All of them as one, of the first one's kind."""
    if errors:
        steps = dict.fromkeys(error.next_step for error in errors if error.next_step)
        raise type(errors[0])([problem for error in errors for problem in error.problems], "; ".join(steps))


def _streams(part: Part, find: Callable[..., list[tuple[str | None, Records]]]) -> list[tuple[str | None, Records]]:
    """(split, records) of each file or table of a part; of places side by side there is one."""
    if part.aligned:
        columns = {column: [records for _, records in find(place, aligned=True)] for column, place in part.aligned}
        return [(part.split, _side_by_side(part, columns))]
    return [(part.split or split, records) for place in part.places for split, records in find(place, aligned=False)]


def _place(
    place: str, params: IngestParams, declared: Declared, *, aligned: bool
) -> Iterator[tuple[str | None, Records]]:
    """(split, records) of each file or table there."""
    kind, path = source_spec.scheme(place), source_spec.local_path(place)
    _allowed(place, "network", params, needed=path is None and kind != "built-in")
    _allowed(place, "outside", params, needed=path is not None and (path.startswith("/") or ".." in path.split("/")))
    lies = None if path is None else declared(path)
    if place == "digits":
        yield None, images.digits()
    elif place == "pydocs":
        yield None, (Record(row["origin"], row) for row in pydocs.collect())
    elif kind == "hub":
        yield from ((split, records()) for split, records in hub.read(place, lies))
    elif kind == "sql":
        yield None, sql.read(place, lies)
    else:
        found = remote.find(place) if lies is None else files.local(place, lies)
        yield from ((None, _records(file, params, aligned=aligned)) for file in found)


def _allowed(place: str, what: str, params: IngestParams, *, needed: bool) -> None:
    if needed and what not in params.allow:
        means = {"network": "is read over the network", "outside": "lies outside the workspace"}[what]
        raise DataError(f"ingest.source: {place} {means}", f"add {what} to ingest.allow in params.yaml")


def _records(file: File, params: IngestParams, *, aligned: bool) -> Records:
    kind: str = params.format
    if kind == "auto":
        kind = ENDINGS.get(file.ending, "lines" if aligned else "")
        kind = "lines" if aligned and kind == "blocks" else kind
    readers: dict[str, Callable[[], Records]] = {
        "text": lambda: text.whole(file, params.encoding),
        "lines": lambda: text.lines(file, params.encoding),
        "blocks": lambda: text.blocks(file, params.encoding),
        "csv": lambda: tables.comma(file, params.encoding, header=params.header),
        "tsv": lambda: tables.tab(file, params.encoding, header=params.header),
        "jsonl": lambda: tables.json_lines(file, params.encoding),
        "json": lambda: tables.json_file(file, params.encoding),
        "parquet": lambda: columnar.parquet(file),
        "arrow": lambda: columnar.arrow(file),
        "images": lambda: images.image(file),
        "idx": lambda: images.idx(file),
    }
    if kind not in readers:
        raise DataError(
            f"ingest.source: {file.name}: no format is known for the ending `{file.ending}`",
            f"set ingest.format to one of {', '.join(readers)}",
        )
    records = readers[kind]()
    return records if aligned or kind != "lines" else (each for each in records if each.values["text"].strip())


def _side_by_side(part: Part, columns: dict[str, list[Records]]) -> Records:
    """One record of the n-th records of all places. Raises DataError where one has more than another."""
    streams = [chain.from_iterable(records) for records in columns.values()]
    for number, row in enumerate(zip_longest(*streams), start=1):
        missing = [place for (_, place), record in zip(part.aligned, row, strict=True) if record is None]
        if missing:
            raise DataError(
                f"ingest.source: {missing[0]} ends after {number - 1} rows, others do not: rows do not belong together",
                "fetch the files anew",
            )
        values = {column: _value(record, column) for column, record in zip(columns, row, strict=True)}
        yield Record(row[0].origin, values, next((record.problem for record in row if record.problem), ""))


def _value(record: Record, column: str) -> object:
    """The column of that name, or the only one there is."""
    if column in record.values:
        return record.values[column]
    return next(iter(record.values.values())) if len(record.values) == 1 else None
