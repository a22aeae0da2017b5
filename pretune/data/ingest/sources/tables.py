"""Tables as text: .csv, .tsv and .jsonl with a record per row; .json with a list of records or in SQuAD's format."""

from __future__ import annotations

import csv
import json
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pretune.data.ingest.sources import conll, dialect
from pretune.data.ingest.sources.files import SHOWN, File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

MAX_FIELD = 2**24  # characters: a longer field means that a quotation mark is not closed
MANY_LINES = 20  # in one row: allowed, with a warning
BLANK = "blank lines between rows are left out; if they end sentences, ingest.format: conll reads words with tags"
NOT_CLOSED = "a quotation mark is not closed, or text follows it"


def comma(file: File, encoding: str, delimiter: str, *, header: bool) -> Records:
    """A .csv (RFC 4180). Without a header, its columns are named 1, 2 and so on.

    delimiter: one character, `tab`, or `auto`: the one that a first line `sep=;` of Excel names, which is no row, else
    dialect.sniff. A quotation mark that opens a field and is not closed before the next field makes its line a bad
    record; the lines after it are read as if it were not there.
    """
    head, lines = conll.lines_of_others(file, encoding)
    named = head and dialect.NAMED.fullmatch(head[0])
    delimiter = {"auto": "", "tab": "\t"}.get(delimiter, delimiter)
    rows = _quoted(lines, delimiter or dialect.sniff(head).delimiter)
    yield from _table(file, islice(rows, 1, None) if named else rows, header=header)


def tab(file: File, encoding: str, delimiter: str, *, header: bool) -> Records:
    """A .tsv: fields are separated by tabs, and quotation marks have no special meaning. A line is a row."""
    _, lines = conll.lines_of_others(file, encoding)
    delimiter = "\t" if delimiter in {"auto", "tab"} else delimiter
    rows = ((number, 1, _line(line).split(delimiter)) for number, line in enumerate(lines, start=1))
    for record in _table(file, ((n, c, fields) for n, c, fields in rows if fields != [""]), header=header):
        quoted = any(len(text) > 1 and text[0] == text[-1] == '"' for text in record.values.values())
        warning = "fields in quotation marks, which are text in a .tsv; ingest.format: csv reads what is in them"
        yield Record(record.origin, record.values, record.problem, warning) if quoted else record


def _line(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


Fields = Iterator[tuple[int, int, list[str] | str]]  # first line of a row, its number of lines, fields or a problem


class _Lines:
    """Lines that can be read again: `row` holds those since the last `begin`, the first of which is number `first`."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._again = lines, deque[str]()
        self.first, self.row = 1, list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.row.append(line)
        return line

    def begin(self) -> None:
        """Begin a new row after the lines of this one."""
        self.first += len(self.row)
        self.row = []

    def begin_after_first(self) -> None:
        """Begin a new row after the first line of this one, however many were read."""
        self._again.extendleft(reversed(self.row[1:]))
        self.first += 1
        self.row = []


def _quoted(lines: Iterator[str], delimiter: str) -> Fields:
    """The rows of a table with quotation marks; rows without any content are left out."""
    csv.field_size_limit(MAX_FIELD)
    source = _Lines(lines)
    while True:
        try:
            for fields in csv.reader(source, delimiter=delimiter, strict=True):
                if fields:
                    yield source.first, len(source.row), fields
                source.begin()
        except csv.Error as error:
            if "new-line character" in str(error):  # quotation marks are in order: all lines of the row are bad
                yield source.first, len(source.row), "a carriage return outside quotation marks"
                source.begin()
            else:
                yield source.first, 1, NOT_CLOSED
                source.begin_after_first()
        else:
            return


def _table(file: File, rows: Fields, *, header: bool) -> Records:
    names: list[str] = []
    if header:
        _, _, first = next(rows, (1, 1, []))
        if isinstance(first, str):
            raise DataError(f"{file.name}:1: {first}: the names of the columns cannot be read", f"correct {file.name}")
        names = column_names(file, first)
    end, warned = 0, False  # the line after the row before
    for number, line_count, fields in rows:
        origin = f"{file.name}:{number}"
        blank, end = BLANK if end and number > end and not warned else "", number + line_count
        warned = warned or bool(blank)
        if isinstance(fields, str):
            yield Record(origin, {}, fields)
            continue
        names = names or [str(column) for column in range(1, len(fields) + 1)]
        yield _record(origin, names, fields, "; ".join(filter(None, (_doubt(fields, line_count), blank))))


def _doubt(fields: list[str], line_count: int) -> str:
    """A warning for a row over several lines that may be rows themselves, within quotation marks that belong apart."""
    if line_count > MANY_LINES:
        return f"a field over more than {MANY_LINES} lines"
    if any(field.startswith(' "') for field in fields):
        return "a quotation mark after a space is text, and so is the space"
    inner = [line for field in fields for line in field.split("\n")[1:-1]]
    commas = [max(map(line.count, dialect.DELIMITERS)) for line in inner]
    return "a field that may hold whole rows" if commas and min(commas) >= len(fields) - 1 > 0 else ""


def column_names(file: File, fields: list[str]) -> list[str]:
    """The names of the columns, those without one by their number. Raises DataError for two of the same name."""
    names = [name.strip() or str(number) for number, name in enumerate(fields, start=1)]
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DataError(
            f"{file.name}: two columns are called {', '.join(repeated[:SHOWN])}{', …' * (len(repeated) > SHOWN)}",
            f"rename one in {file.name}, or set ingest.header: false if its first line holds values",
        )
    return names


def _record(origin: str, names: list[str], fields: list[str], warning: str) -> Record:
    """A row; empty fields beyond the last column are left out."""
    extra = fields[len(names) :]
    if len(fields) < len(names) or any(text.strip() for text in extra):
        kind = "more" if extra else "fewer"
        return Record(origin, dict(zip(names, fields, strict=False)), f"{kind} fields than columns")
    return Record(origin, dict(zip(names, fields, strict=False)), "", warning)


def json_lines(file: File, encoding: str) -> Records:
    """A .jsonl: one JSON object per line; blank lines are skipped."""
    for number, line in enumerate(file.lines(encoding), start=1):
        if line.strip():
            yield _object(f"{file.name}:{number}", line)


def _object(origin: str, content: str) -> Record:
    try:
        values = json.loads(content, object_pairs_hook=_distinct)
    except _RepeatedNameError as error:
        return Record(origin, {"content": content}, str(error))
    except (ValueError, RecursionError):  # no JSON, a number of 5,000 digits, too many brackets
        return Record(origin, {"content": content}, "not JSON")
    if not isinstance(values, dict):
        return Record(origin, {"content": content}, "not a JSON object")
    return Record(origin, values)


class _RepeatedNameError(ValueError):
    """Two values of one object have the same name: one would be lost."""


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = Counter(name for name, _ in pairs)
        repeated = ", ".join(name for name, count in names.items() if count > 1)
        raise _RepeatedNameError(f"two values are called {repeated}")
    return values


def json_file(file: File, encoding: str) -> Records:
    """A .json: a list of objects, an object that holds one, lines of objects, or SQuAD (Rajpurkar et al. 2016, 2018).

    A question of SQuAD 2.0 that has no answer has `answers: []`. What stands beside the only list draws a warning.
    """
    text = "".join(file.lines(encoding))
    try:
        content = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        if _is_object(text.partition("\n")[0]):
            yield from json_lines(file, encoding)
            return
        raise DataError(f"{file.name}:{error.lineno}: not JSON ({error.msg})", f"correct {file.name}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name}: not JSON that can be read ({error})", f"correct {file.name}") from None
    lists = [content] if isinstance(content, list) else []
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
    if len(lists) == 1 and any(isinstance(entry, dict) and "paragraphs" in entry for entry in lists[0]):
        yield from _squad(file.name, lists[0])
        return
    if len(lists) != 1:
        raise DataError(
            f"{file.name}: neither a list of objects, nor an object with one list of them, nor SQuAD's format",
            f"write {file.name} as .jsonl, an object on each line",
        )
    others = [] if isinstance(content, list) else [name for name, value in content.items() if value is not lists[0]]
    warning = f"the rows are the only list of the object; left out: {', '.join(others)}" if others else ""
    for number, values in enumerate(lists[0], start=1):
        problem = "" if isinstance(values, dict) else "not a JSON object"
        shown = "" if number > 1 else warning
        yield Record(f"{file.name}:{number}", {"content": values} if problem else values, problem, shown)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _squad(name: str, articles: list[dict[str, Any]]) -> Iterator[Record]:
    number = 0
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    number += 1
                    values = {"context": paragraph["context"], "title": article.get("title", ""), **entry}
                    yield Record(f"{name}:{entry.get('id', number)}", values)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{name}: not in the format of SQuAD after question {number} ({type(error).__name__}: {error})",
            f"correct {name}, or write it as .jsonl",
        ) from None
