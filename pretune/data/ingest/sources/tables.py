"""Tables as text: .csv, .tsv and .jsonl, one record a row; and .json, a list of records or a SQuAD file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, Literal

from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

MARKS: Literal[0] = 0  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE: of types that mypy can tell
NO_MARKS: Literal[3] = 3
LONGEST = 2**24  # characters of a field: more is a quotation mark that nobody closed


def comma(file: File, encoding: str, *, header: bool) -> Records:
    """A .csv; without a header, columns are called 1, 2 and so on."""
    yield from _table(file, encoding, header=header, delimiter=",", quoting=MARKS)


def tab(file: File, encoding: str, *, header: bool) -> Records:
    """A .tsv: tabs between the fields, and quotation marks are characters like any other."""
    yield from _table(file, encoding, header=header, delimiter="\t", quoting=NO_MARKS)


def _table(file: File, encoding: str, *, header: bool, delimiter: str, quoting: Literal[0, 3]) -> Records:
    csv.field_size_limit(LONGEST)
    with file.text(encoding, newline="") as stream:
        table = csv.reader(stream, delimiter=delimiter, quoting=quoting)
        try:
            names = _names(file, next(table, [])) if header else []
            for fields in table:
                if fields:
                    names = names or [str(number) for number in range(1, len(fields) + 1)]
                    yield _record(f"{file.name}:{table.line_num}", names, fields)
        except csv.Error as error:
            raise DataError(f"{file.name}:{table.line_num}: not a table ({error})", f"mend {file.name}") from None


def _names(file: File, fields: list[str]) -> list[str]:
    twice = sorted({name for name in fields if fields.count(name) > 1})
    if twice:
        raise DataError(f"{file.name}: two columns are called {', '.join(twice)}", f"rename one in {file.name}")
    return fields


def _record(origin: str, names: list[str], fields: list[str]) -> Record:
    problem = "" if len(fields) == len(names) else "more or fewer fields than columns"
    return Record(origin, dict(zip(names, fields, strict=False)), problem)


def json_lines(file: File, encoding: str) -> Records:
    """A JSON object a line; blank lines hold nothing."""
    with file.text(encoding) as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _object(f"{file.name}:{number}", line)


def _object(origin: str, content: str) -> Record:
    try:
        values = json.loads(content)
    except json.JSONDecodeError:
        return Record(origin, {"content": content}, "not JSON")
    if not isinstance(values, dict):
        return Record(origin, {"content": content}, "not a JSON object")
    return Record(origin, values)


def json_file(file: File, encoding: str) -> Records:
    """A whole .json: a list of objects, or questions in the format of SQuAD (Rajpurkar et al. 2016)."""
    with file.text(encoding) as stream:
        try:
            content = json.load(stream)
        except json.JSONDecodeError as error:
            raise DataError(f"{file.name}:{error.lineno}: not JSON ({error.msg})", f"mend {file.name}") from None
    if isinstance(content, list):
        for number, values in enumerate(content, start=1):
            problem = "" if isinstance(values, dict) else "not a JSON object"
            yield Record(f"{file.name}:{number}", {"content": values} if problem else values, problem)
        return
    try:
        yield from _squad(file.name, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file.name}: neither a list of objects nor in the format of SQuAD ({type(error).__name__}: {error})",
            f"mend {file.name}, or write it as .jsonl",
        ) from None


def _squad(name: str, content: dict[str, Any]) -> Iterator[Record]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for entry in paragraph["qas"]:
                values = {"context": paragraph["context"], "title": article.get("title", ""), **entry}
                yield Record(f"{name}:{entry['id']}", values)
