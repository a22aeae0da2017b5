"""A snapshot: the rows of a source, cleaned, each once; and the record of what was left out, and why.

Two passes over the rows, for whether a row repeats another is known when all have been seen. Memory
does not grow with the rows' text.
"""

from __future__ import annotations

import json
import shutil
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

from pretune.data import rows
from pretune.data.ingest.cleaning.text import Cleaner, check_languages
from pretune.data.ingest.columns import BadRowError, Mapping
from pretune.data.ingest.sources.record import Record
from pretune.data.rows import SUPERVISION, Row
from pretune.data.similarity.duplicates import Duplicates, fingerprints, text_of
from pretune.data.workers import chunked, in_order
from pretune.errors import DataError

if TYPE_CHECKING:
    from pretune.config.data import CleanParams, IngestParams

Records = Iterable[tuple[str | None, Record]]
SHOWN = 10  # bad rows in a message
EXCERPT = 200  # characters of a bad row that are kept


class Snapshot:
    """Writes `folder`: rows.parquet, quarantine.jsonl, duplicates.jsonl and counts.json."""

    def __init__(self, folder: Path, params: IngestParams) -> None:
        self._folder, self._params = folder, params
        check_languages(params.clean.languages)
        self._mapping = Mapping(params)
        self._work = folder / "work"
        self._work.mkdir(parents=True)
        self._reasons: Counter[str] = Counter()
        self._scrubbed: dict[str, int] = dict.fromkeys(params.clean.scrub, 0)
        self._first: list[str] = []
        self._read = 0
        self.names: dict[str, list[str]] = {}

    def write(self, records: Records) -> dict[str, Any]:
        """Write all and return the counts. Raises DataError where too many rows are bad, or none is left."""
        every = self._work / "rows.parquet"
        clean = self._params.clean
        near = clean.similarity if clean.duplicates == "near" else None
        found = Duplicates(self._work, near=near)
        quarantine_file = self._folder / "quarantine.jsonl"
        with closing(found), quarantine_file.open("w", encoding="utf-8", newline="\n") as quarantine:
            fit = self._rows(records, found, quarantine)
            kept = rows.write(every, fit if clean.duplicates == "keep" else self._noted(fit))
        self._judge()
        if not kept:
            raise DataError(f"ingest.source: {shown(self._params.source)} holds no rows", "add rows, then: pretune run")
        counts = Counter[str]()
        with (self._folder / "duplicates.jsonl").open("w", encoding="utf-8", newline="\n") as log:
            rows.write(self._folder / "rows.parquet", self._distinct(every, found, log, counts))
        shutil.rmtree(self._work)
        result = {
            "read": self._read, "quarantined": self._reasons.total(), "reasons": dict(sorted(self._reasons.items())),
            **{name: counts[name] for name in ("exact", "near", "conflicting", "rows", "labelled", "characters")},
            "scrubbed": self._scrubbed,
        }  # fmt: skip
        _dump(self._folder / "counts.json", result)
        return result

    def _rows(self, records: Records, found: Duplicates, quarantine: Any) -> Iterator[Row]:
        """The rows that are fit to be kept, their fingerprints noted; the others go to quarantine with their reason."""
        waiting: deque[list[tuple[Record, Row | BadRowError]]] = deque()  # chunks that are being tidied

        def sent() -> Iterator[list[Row | BadRowError]]:
            for chunk in chunked((record, self._mapped(split, record)) for split, record in records):
                waiting.append(chunk)
                yield [row for _, row in chunk]

        for tidy_chunk in in_order(partial(tidy, self._params.clean), sent()):
            if tidy_chunk.prints:
                found.add(tidy_chunk.prints)
            for kind, count in tidy_chunk.scrubbed.items():
                self._scrubbed[kind] += count
            for (record, _), row in zip(waiting.popleft(), tidy_chunk.rows, strict=True):
                if isinstance(row, BadRowError):
                    self._put_aside(record, row, quarantine)
                else:
                    yield row

    def _mapped(self, split: str | None, record: Record) -> Row | BadRowError:
        """The row of a record, or why there is none."""
        self._read += 1
        try:
            row = self._mapping.row(record)
            for column in {"x", "y"} & row.keys():
                names = self.names.setdefault(column, self._mapping.names(column, len(row[column])))
                if len(row[column]) != len(names):
                    counts = f"{len(row[column])}, not {len(names)}"
                    raise BadRowError(f"{column}: not as many numbers as before", counts)
        except BadRowError as error:
            return error
        return row | ({"split": split} if split else {})

    def _put_aside(self, record: Record, error: BadRowError, quarantine: Any) -> None:
        self._reasons[error.reason] += 1
        if len(self._first) < SHOWN:
            self._first.append(f"{record.origin}: {error}")
        excerpt = json.dumps(record.values, ensure_ascii=True, default=repr)[:EXCERPT]
        line = {"origin": record.origin, "reason": str(error), "excerpt": excerpt}
        quarantine.write(json.dumps(line, ensure_ascii=True) + "\n")

    def _judge(self) -> None:
        """Stop where more rows are bad than `max_bad_rows` allows."""
        bad, most = self._reasons.total(), self._params.clean.max_bad_rows
        allowed = most * self._read if most < 1 else most
        if bad <= allowed:
            return
        more = [f"… and {bad - len(self._first)} more rows like these"] if bad > len(self._first) else []
        summary = ", ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(SHOWN))
        raise DataError(
            [
                *self._first,
                *more,
                f"{bad} of {self._read} rows are bad ({summary}); ingest.clean.max_bad_rows is {most}",
            ],
            "mend them, or raise ingest.clean.max_bad_rows to put them aside, then: pretune run",
        )

    def _noted(self, found: Iterator[Row]) -> Iterator[Row]:
        """The same rows, their origins noted."""
        with (self._work / "origins").open("w", encoding="utf-8") as origins:
            for row in found:
                origins.write(json.dumps([row["origin"], row.get("label")]) + "\n")
                yield row

    def _distinct(self, every: Path, found: Duplicates, log: Any, counts: Counter[str]) -> Iterator[Row]:
        """The rows that repeat none; the others are logged with the one that they repeat."""
        of, exact = found.find()
        repeated = np.unique(of[of >= 0])
        kept = list(_lines(self._work / "origins", repeated))
        for number, row in enumerate(rows.iterate(every)):
            if found.count and of[number] >= 0:
                origin, label = kept[np.searchsorted(repeated, of[number])]
                kind = "exact" if exact[number] else "near"
                counts[kind] += 1
                counts["conflicting"] += label is not None and row.get("label", label) != label
                line = {"origin": row["origin"], "kind": kind, "of": origin, "labels": [row.get("label"), label]}
                log.write(json.dumps(line, ensure_ascii=False) + "\n")
            else:
                labelled = any(name in row for name in SUPERVISION)
                counts.update(rows=1, labelled=labelled, characters=len(text_of(row)))
                yield row


class Tidied(NamedTuple):
    """Rows as they are to be kept, or why not; fingerprints of those to be kept; how much was scrubbed, by kind."""

    rows: list[Row | BadRowError]
    prints: dict[str, bytes]
    scrubbed: dict[str, int]


def tidy(params: CleanParams, found: list[Row | BadRowError]) -> Tidied:
    """Clean rows and take their fingerprints: a function of the rows alone. Those that are bad stay so."""
    cleaner = Cleaner(params)
    tidied = [row if isinstance(row, BadRowError) else _cleaned(cleaner, row) for row in found]
    fit = [row for row in tidied if not isinstance(row, BadRowError)]
    prints = {} if params.duplicates == "keep" else fingerprints(fit, near=params.duplicates == "near")
    return Tidied(tidied, prints, cleaner.scrubbed)


def _cleaned(cleaner: Cleaner, row: Row) -> Row | BadRowError:
    try:
        return cleaner(row)
    except BadRowError as error:
        return error


def _lines(path: Path, wanted: npt.NDArray[np.int64]) -> Iterator[tuple[str, str | None]]:
    """The lines of these numbers, which ascend."""
    if not len(wanted):
        return
    with path.open(encoding="utf-8") as file:
        for ahead in np.diff(wanted, prepend=-1).tolist():
            origin, label = json.loads(next(islice(file, ahead - 1, None)))
            yield origin, label if label is None else sys.intern(label)


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def shown(source: Any) -> str:
    """`ingest.source` in a message."""
    return source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)
