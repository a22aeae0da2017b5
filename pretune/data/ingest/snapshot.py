"""A snapshot: the clean rows of a source without duplicates, and the rows that were left out with the reason.

It takes two passes over the rows, because duplicates are known when all rows have been read. Memory does not grow with
the texts, and with `ingest.storage` the disk needs room for a part of the rows and the fingerprints only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pretune.data import rows, storage
from pretune.data.ingest.cleaning.text import Cleaner, check_languages
from pretune.data.ingest.columns import ColumnMapping
from pretune.data.ingest.sources.record import Record
from pretune.data.ingest.tally import Tally
from pretune.data.ingest.values import BadRowError
from pretune.data.rows import Row
from pretune.data.similarity.duplicates import Duplicates, compared, fingerprints
from pretune.data.workers import chunked, in_order
from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.config.data import CleanParams, IngestParams

Records = Iterable[tuple[str | None, Record]]
EXCERPT = 200  # characters of a bad row in the quarantine


class Snapshot:
    """Writes `folder`: rows.parquet, quarantine.jsonl, duplicates.jsonl and counts.json."""

    def __init__(self, folder: Path, params: IngestParams) -> None:
        self._folder, self._params = folder, params
        check_languages(params.clean.languages)
        self._mapping = ColumnMapping(params)
        self._work = folder / "work"
        self._work.mkdir(parents=True)
        place = hashlib.md5(f"{socket.gethostname()} {folder}".encode(), usedforsecurity=False).hexdigest()
        self._pending = params.storage and f"{params.storage.rstrip('/')}/pending/{place}"
        self._tally = Tally(params, self._mapping)
        self._scrubbed: dict[str, int] = dict.fromkeys(params.clean.scrub, 0)
        self.names: dict[str, list[str]] = {}

    def write(self, records: Records) -> dict[str, Any]:
        """Write all files and return the counts.

        Raises DataError for a file without a column that `ingest.columns` names, for too many bad rows, and if no row
        is left.
        """
        all_rows = self._work / "rows.parquet"
        clean = self._params.clean
        near = clean.similarity if clean.duplicates == "near" else None
        duplicates = Duplicates(self._work, near=near)
        quarantine_file = self._folder / "quarantine.jsonl"
        with closing(duplicates), quarantine_file.open("w", encoding="utf-8", newline="\n") as quarantine:
            clean_rows = self._clean_rows(records, duplicates, quarantine)
            kept = clean_rows if clean.duplicates == "keep" else self._log_origins(clean_rows)
            count = rows.write(all_rows, kept, self._pending)
        self._tally.check(kept=count)
        if not count:
            source = describe_source(self._params.source)
            raise DataError(f"ingest.source: {source} holds no rows", "add rows, then: pretune run")
        counts = Counter[str]()
        with (self._folder / "duplicates.jsonl").open("w", encoding="utf-8", newline="\n") as log:
            originals = self._without_duplicates(all_rows, duplicates, log, counts)
            rows.write(self._folder / "rows.parquet", originals, self._params.storage)
        shutil.rmtree(self._work)
        if self._pending:
            storage.remove(self._pending)
        result = {
            "read": self._tally.read, "quarantined": self._tally.quarantined,
            "reasons": {reason: places.count for reason, places in sorted(self._tally.bad.items())},
            **{name: counts[name] for name in ("exact", "near", "conflicting", "rows", "labelled", "characters")},
            "scrubbed": self._scrubbed, **self._tally.counts(),
        }  # fmt: skip
        text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
        (self._folder / "counts.json").write_text(text, encoding="utf-8")
        return result

    def _clean_rows(self, records: Records, duplicates: Duplicates, quarantine: Any) -> Iterator[Row]:
        """The clean rows, whose fingerprints go to `duplicates`; bad rows go to the quarantine."""
        pending: deque[list[tuple[Record, Row | BadRowError]]] = deque()  # chunks that are being cleaned

        def chunks() -> Iterator[list[Row | BadRowError]]:
            for chunk in chunked((record, self._map(split, record)) for split, record in records):
                pending.append(chunk)
                yield [row for _, row in chunk]
            self._tally.end_of_file()

        for cleaned in in_order(partial(clean_chunk, self._params.clean), chunks()):
            if cleaned.prints:
                duplicates.add(cleaned.prints)
            for kind, count in cleaned.scrubbed.items():
                self._scrubbed[kind] += count
            for (record, _), row in zip(pending.popleft(), cleaned.rows, strict=True):
                if isinstance(row, BadRowError):
                    self._put_in_quarantine(record, row, quarantine)
                else:
                    self._tally.clean_row(row)
                    yield row

    def _map(self, split: str | None, record: Record) -> Row | BadRowError:
        """The row of a record, or the reason why it is bad."""
        self._tally.record(split, record)
        try:
            row = self._mapping.row(record, split)
            for column in {"x", "y"} & row.keys():
                names = self.names.setdefault(column, self._mapping.names(column, len(row[column])))
                if len(row[column]) != len(names):
                    counts = f"{len(row[column])}, not {len(names)}"
                    raise BadRowError(f"{column}: not as many numbers as before", counts)
        except BadRowError as error:
            return error
        return row | ({"split": split} if split else {})

    def _put_in_quarantine(self, record: Record, error: BadRowError, quarantine: Any) -> None:
        self._tally.bad_row(record.origin, error)
        excerpt = json.dumps(record.values, ensure_ascii=True, default=repr)[:EXCERPT]
        line = {"origin": record.origin, "reason": str(error), "excerpt": excerpt}
        quarantine.write(json.dumps(line, ensure_ascii=True) + "\n")

    def _log_origins(self, clean_rows: Iterator[Row]) -> Iterator[Row]:
        """The same rows; their origins and labels go to a file."""
        with (self._work / "origins").open("w", encoding="utf-8") as origins:
            for row in clean_rows:
                origins.write(json.dumps([row["origin"], row.get("label")]) + "\n")
                yield row

    def _without_duplicates(
        self, all_rows: Path, duplicates: Duplicates, log: Any, counts: Counter[str]
    ) -> Iterator[Row]:
        """The rows that duplicate no other; the duplicates are logged with the row that is kept."""
        original, exact = duplicates.find()
        duplicated = np.unique(original[original >= 0])
        origins = list(_lines(self._work / "origins", duplicated))
        for number, row in enumerate(rows.iterate(all_rows)):
            if duplicates.count and original[number] >= 0:
                origin, label = origins[np.searchsorted(duplicated, original[number])]
                kind = "exact" if exact[number] else "near"
                counts[kind] += 1
                counts["conflicting"] += label is not None and row.get("label", label) != label
                line = {"origin": row["origin"], "kind": kind, "of": origin, "labels": [row.get("label"), label]}
                log.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                counts.update(rows=1, labelled=int(rows.is_supervised(row)), characters=len("\n".join(compared(row))))
                self._tally.kept_row(row)
                yield row


class CleanedChunk(NamedTuple):
    """Clean rows, or why a row is bad; the fingerprints of the clean ones; the number of replacements by kind."""

    rows: list[Row | BadRowError]
    prints: dict[str, bytes]
    scrubbed: dict[str, int]


def clean_chunk(params: CleanParams, chunk: list[Row | BadRowError]) -> CleanedChunk:
    """Clean rows and compute their fingerprints, as a function of the rows alone; bad rows stay bad."""
    cleaner = Cleaner(params)
    results = [row if isinstance(row, BadRowError) else _clean(cleaner, row) for row in chunk]
    clean_rows = [row for row in results if not isinstance(row, BadRowError)]
    prints = {} if params.duplicates == "keep" else fingerprints(clean_rows, near=params.duplicates == "near")
    return CleanedChunk(results, prints, cleaner.scrubbed)


def _clean(cleaner: Cleaner, row: Row) -> Row | BadRowError:
    try:
        return cleaner(row)
    except BadRowError as error:
        return error


def _lines(path: Path, numbers: npt.NDArray[np.int64]) -> Iterator[tuple[str, str | None]]:
    """(origin, label) of the lines with these ascending numbers."""
    if not len(numbers):
        return
    with path.open(encoding="utf-8") as file:
        for step in np.diff(numbers, prepend=-1).tolist():
            origin, label = json.loads(next(islice(file, step - 1, None)))
            yield origin, label if label is None else sys.intern(label)


def describe_source(source: Any) -> str:
    """`ingest.source` as text: a place as it is, anything else as JSON."""
    return source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)
