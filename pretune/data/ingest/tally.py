"""What became of the records of a source: counts by reason, file and column, and what a person has to know of it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pretune.config.source_spec import BUILT_IN
from pretune.data.ingest.columns import ABSENT, CONTENT, CORPUS, ColumnMapping, find
from pretune.data.ingest.sources.record import Record
from pretune.data.ingest.values import BadRowError
from pretune.data.rows import COLUMNS, SUPERVISION, Row, is_supervised
from pretune.errors import DataError, did_you_mean, readable

if TYPE_CHECKING:
    from pretune.config.data import IngestParams

PLACES = 3  # of the rows with one problem
SHOWN = 10  # reasons, files or columns in a message
KEPT = 1000  # files, columns and warnings that are counted by name; the others are counted together
OTHERS = "others"
NEARLY = 0.9  # share of the rows from which one reason is a wrong setting, not bad rows
SETTINGS = {  # the setting that is wrong where nearly all rows are bad: by a part of the reason
    "encoding": "ingest.encoding",
    "control character": "ingest.encoding or ingest.format",
    "fields": "ingest.format or ingest.delimiter",
    "JSON": "ingest.format",
    "ingest.labels": "ingest.labels",
    "nor a whole number": "ingest.columns: {score: COLUMN} for numbers to predict",
    "language:": "ingest.clean.languages",
    "quality,": "ingest.clean.quality",
    "shorter than": "ingest.clean.min_characters",
    "longer than": "ingest.clean.max_characters",
}
NOT_COUNTED = {"split", "group", "part", "origin"}  # columns by which no objective is chosen


@dataclass
class Places:
    """How often something occurred, and where first. detail: of the first."""

    detail: str = ""
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, origin: str) -> None:
        """One more."""
        self.count += 1
        if len(self.first) < PLACES:
            self.first.append(origin)

    def __str__(self) -> str:
        return ", ".join([*self.first, "…"] if self.count > len(self.first) else self.first)


@dataclass
class FileCount:
    """Rows that are not for pretraining alone, how many of them are labelled, and columns that are not used."""

    rows: int = 0
    labelled: int = 0
    unused: list[str] = field(default_factory=list)


class Tally:
    """Sees each record once and each kept row once. Raises DataError for a file that lacks a mapped column."""

    def __init__(self, params: IngestParams, mapping: ColumnMapping) -> None:
        self._params, self._mapping, self._mapped = params, mapping, mapping.mapped()
        self.read = self._clean = self._kept = 0  # rows
        self.bad: dict[str, Places] = {}
        self._warnings: dict[str, Places] = {}
        self._unused: Counter[str] = Counter()
        self._files: dict[str, FileCount] = {}
        self._columns: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._splits: dict[str, dict[str, int]] = {}
        self._file, self._seen = "", 0
        self._awaited = set[str]()  # mapped columns that no record of the file has had yet
        self._has_content = True  # whether one has had a column to learn from
        self._names: dict[str, None] = {}  # columns of the file

    def record(self, split: str | None, record: Record) -> None:
        """Count a record of the source, before it becomes a row."""
        self.read += 1
        if warning := record.warning:
            _named(self._warnings, warning, Places()).add(record.origin)
        if record.problem:
            return
        unused, file = (
            list(map(readable, self._mapping.unused(record, split))),
            file_of(record.origin, self._params.source),
        )
        if not self._seen or file != self._file:
            self.end_of_file()
            self._file, self._seen, self._names = file, 0, {}
            self._awaited, self._has_content = set() if split == CORPUS else set(self._mapped), False
            if split != CORPUS:
                count = _named(self._files, file, FileCount())
                count.unused = count.unused or unused
        self._seen += 1
        for name in unused:
            self._unused[name if name in self._unused or len(self._unused) < KEPT else OTHERS] += 1
        if self._awaited or not self._has_content:
            self._awaited = {name for name in self._awaited if find(record.values, name) is ABSENT}
            self._has_content |= any(name in CONTENT for name in self._mapping.sources(record.values, split))
            self._names |= dict.fromkeys(record.values) if len(self._names) < KEPT else {}

    def end_of_file(self) -> None:
        """Raise DataError if no record of the file had a column that `ingest.columns` names, or any to learn from."""
        if not self._seen or not (self._awaited or not self._has_content):
            return
        names = [readable(str(name)) for name in self._names]
        if not self._awaited:
            raise DataError(
                f"{self._file} has no column text; its columns are {_list(names)}",
                "name the column to read, as ingest.columns: {text: COLUMN}, then: pretune run   (docs/data.md)",
            )
        problems = [
            f"{self._file} has no column {name}{did_you_mean(name, names)}, which ingest.columns names for {ours}"
            for name, ours in self._mapped.items()
            if name in self._awaited
        ]
        header = self._params.header and any(name.isdigit() for name in self._awaited)
        supervised = all(self._mapped[name] in SUPERVISION for name in self._awaited)
        hint = ", or set ingest.header: false if its first line holds values" if header else ""
        hint += f", or list {self._file} under `corpus` in ingest.source if it has no labels" if supervised else ""
        raise DataError(
            [*problems, f"its columns are {_list(names)}"],
            f"correct ingest.columns{hint}, then: pretune run",
        )

    def bad_row(self, origin: str, error: BadRowError) -> None:
        """Count a row that goes to the quarantine."""
        self.bad.setdefault(error.reason, Places(error.detail)).add(origin)

    def clean_row(self, row: Row) -> None:
        """Count a row that is not bad."""
        self._clean += 1
        if row.get("split") != CORPUS:
            count = _named(self._files, file_of(row["origin"], self._params.source), FileCount())
            count.rows += 1
            count.labelled += is_supervised(row)

    def kept_row(self, row: Row) -> None:
        """Count a row that is no duplicate."""
        self._kept += 1
        self._parts.update([row["part"]] if "part" in row else [])
        if row.get("split") != CORPUS:
            split = self._splits.setdefault(row.get("split", ""), {"rows": 0, "labelled": 0})
            split["rows"] += 1
            split["labelled"] += is_supervised(row)
            self._columns[" ".join(name for name in COLUMNS if name in row and name not in NOT_COUNTED)] += 1
            if "label" in row:
                self._labels[row["label"] if row["label"] in self._labels or len(self._labels) < KEPT else OTHERS] += 1

    @property
    def quarantined(self) -> int:
        """The number of bad rows."""
        return sum(places.count for places in self.bad.values())

    def check(self, kept: int) -> None:
        """Raise DataError if more rows are bad than `max_bad_rows` allows, or if none is left."""
        bad, limit = self.quarantined, self._params.clean.max_bad_rows
        if bad <= (math.ceil(limit * self.read) if limit < 1 else limit) and (kept or not bad):  # a share allows one
            return
        (reason, places), *_ = self._by_count()
        if bad == self.read or places.count >= NEARLY * self.read:
            setting = next((name for part, name in SETTINGS.items() if part in reason), "ingest.columns")
            column = reason.partition(":")[0]
            by_name = column in COLUMNS and column not in self._mapped.values()
            hint = f", or leave this column out: ingest.columns: {{{column}: null}}" if by_name else ""
            next_step = f"correct {setting}{hint}; then: pretune run   (docs/data.md)"
        else:
            next_step = "correct these rows, or raise ingest.clean.max_bad_rows to leave them out, then: pretune run"
        allowed = f"{limit:g} of them" if limit < 1 and limit else f"{int(limit)}"
        summary = f"{bad} of {self.read} rows are bad; ingest.clean.max_bad_rows allows {allowed}"
        raise DataError([*self._bad_lines(), summary], next_step)

    def warnings(self) -> list[str]:
        """Bad rows, what readers of files have noticed, many duplicates, files without labels; one line each."""
        lines = []
        if self.bad:
            reasons = "; ".join(self._bad_lines())
            lines.append(f"{self.quarantined} of {self.read} rows are bad and left out: {reasons}")
        many = {text: f"{places.count} x " if places.count > 1 else "" for text, places in self._warnings.items()}
        lines += [f"{many[text]}{text} ({places})" for text, places in self._warnings.items()]
        if self._kept < self._clean / 2:
            lines.append(f"{self._clean - self._kept} of {self._clean} rows repeat others and are left out")
        some = any(count.labelled for count in self._files.values())
        without = [(file, count) for file, count in self._files.items() if count.rows and not count.labelled and some]
        for file, count in without[:SHOWN]:
            columns = f"; it has the columns {_list(count.unused)}, which are not used" if count.unused else ""
            lines.append(f"{file}: {count.rows} of {count.rows} rows have no label{columns}")
        if len(without) > SHOWN:
            lines.append(f"{len(without) - SHOWN} more files have no labels")
        return list(map(readable, lines))

    def counts(self) -> dict[str, Any]:
        """What counts.json holds of it."""
        return {
            "columns": dict(sorted(self._columns.items())),
            "labels": dict(sorted(self._labels.items())),
            "splits": dict(sorted(self._splits.items())),
            **({"parts": dict(self._parts)} if self._parts else {}),
            "left_out": dict(sorted(self._unused.items())),
            "files": {file: {"rows": count.rows, "labelled": count.labelled} for file, count in self._files.items()},
            "warnings": self.warnings(),
        }

    def _by_count(self) -> list[tuple[str, Places]]:
        return sorted(self.bad.items(), key=lambda item: -item[1].count)

    def _bad_lines(self) -> list[str]:
        """`12 x REASON (first places)`, the most frequent first."""
        lines = [
            f"{places.count} x {reason}{f', as {places.detail}' if places.detail else ''} ({places})"
            for reason, places in self._by_count()[:SHOWN]
        ]
        more = len(self.bad) - SHOWN
        return [*lines, f"{more} more reasons: data/raw/quarantine.jsonl"] if more > 0 else lines


def file_of(origin: str, source: Any) -> str:
    """The file of an origin `file:line`; the folder of one that is a file itself."""
    if isinstance(source, str) and source in BUILT_IN:
        return source
    file, colon, _ = origin.rpartition(":")
    return file if colon else origin.rpartition("/")[0] or origin


def _named(table: dict[str, Any], name: str, new: Any) -> Any:
    """The entry of a table, a new one if there is none; beyond KEPT names that of all others."""
    return table.setdefault(name if name in table or len(table) < KEPT else OTHERS, new)


def _list(names: list[str]) -> str:
    more = len(names) - 3 * SHOWN
    return ", ".join(names[: 3 * SHOWN]) + (f" and {more} more" if more > 0 else "")
