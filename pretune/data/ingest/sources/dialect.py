"""The dialect of a table in text: the delimiter of its fields, and whether its first line holds names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

DELIMITERS = (",", ";", "\t", "|")  # the first wins a tie
NAMED = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)  # Excel's own first line
NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
SAMPLE = 200  # lines that decide
AGREE = 0.8  # share of the rows that have as many fields as the first one


@dataclass(frozen=True)
class Dialect:
    """delimiter: one character. columns: fields of the first row. has_header: whether that row looks like names."""

    delimiter: str
    columns: int
    has_header: bool
    why: str


def sniff(lines: Iterable[str]) -> Dialect:
    """The dialect of a table by its first SAMPLE lines.

    The delimiter is the one of DELIMITERS at which the first row has two fields or more and most rows (AGREE) have as
    many as the first; of several the one on which most rows agree, then one that is not followed by spaces, as commas
    in sentences are. A comma if there is none: one column.
    """
    sample = list(islice(lines, SAMPLE))
    if sample and (named := NAMED.fullmatch(sample[0])):
        rows = _rows(sample[1:], named[1])
        return Dialect(
            named[1], len(rows[0]) if rows else 0, _has_header(rows), "the first line names it, as Excel does"
        )
    tables = {delimiter: _rows(sample, delimiter) for delimiter in DELIMITERS}
    shares = {delimiter: _agreement(rows) for delimiter, rows in tables.items()}
    best = max(DELIMITERS, key=lambda delimiter: (shares[delimiter], not _is_spaced(tables[delimiter])))
    if shares[best] < AGREE:
        return Dialect(",", 1, _has_header(tables[","]), "no delimiter parts all rows alike")
    rows = tables[best]
    why = f"{NAMES[best]}: {len(rows[0])} fields in {shares[best]:.0%} of the first {len(rows)} rows"
    return Dialect(best, len(rows[0]), _has_header(rows), why)


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """The rows of the sample but for empty ones; an open quotation mark at its end is no problem here."""
    try:
        rows = [fields for fields in csv.reader(lines, delimiter=delimiter) if fields]
    except csv.Error:
        return []
    return rows[:-1] if len(rows) > 2 and len(lines) == SAMPLE else rows


def _agreement(rows: list[list[str]]) -> float:
    """The share of the rows that have as many fields as the first; 0 if that has one."""
    if not rows or len(rows[0]) < 2:
        return 0.0
    return sum(len(fields) == len(rows[0]) for fields in rows) / len(rows)


def _is_spaced(rows: list[list[str]]) -> bool:
    """Whether all fields but the first ones begin with a space."""
    return all(field.startswith(" ") for fields in rows[1:] for field in fields[1:])


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row holds names: short distinct words, none a number, none repeated in its column."""
    if len(rows) < 2:
        return bool(rows)
    head = [field.strip() for field in rows[0]]
    counts = Counter(filter(None, head))
    if not counts or max(counts.values()) > 1 or any(_is_number(name) or len(name) > 60 for name in counts):
        return False
    columns = zip(*(fields for fields in rows[1:] if len(fields) == len(head)), strict=False)
    return not any(name and name in column for name, column in zip(head, columns, strict=False))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True
