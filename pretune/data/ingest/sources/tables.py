"""Tables as text: .csv, .tsv and .jsonl with a record per row; .json with a list of records or in SQuAD's format."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import Any, Literal

from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

MAX_FIELD = 2**24  # characters: a longer field means that a quotation mark is not closed


def comma(file: File, encoding: str, *, header: bool) -> Records:
    """A .csv; without a header, its columns are named 1, 2 and so on."""
    yield from _table(file, encoding, header=header, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def tab(file: File, encoding: str, *, header: bool) -> Records:
    """A .tsv: fields are separated by tabs, and quotation marks have no special meaning."""
    yield from _table(file, encoding, header=header, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(file: File, encoding: str, *, header: bool, delimiter: str, quoting: Literal[0, 3]) -> Records:
    csv.field_size_limit(MAX_FIELD)
    with file.text(encoding, newline="") as stream:
        table = csv.reader(stream, delimiter=delimiter, quoting=quoting)
        try:
            names = _names(file, next(table, [])) if header else []
            for fields in table:
                if fields:
                    names = names or [str(number) for number in range(1, len(fields) + 1)]
                    yield _record(f"{file.name}:{table.line_num}", names, fields)
        except csv.Error as error:
            raise DataError(f"{file.name}:{table.line_num}: not a table ({error})", f"correct {file.name}") from None


def _names(file: File, fields: list[str]) -> list[str]:
    repeated = sorted({name for name in fields if fields.count(name) > 1})
    if repeated:
        raise DataError(f"{file.name}: two columns are called {', '.join(repeated)}", f"rename one in {file.name}")
    return fields


def _record(origin: str, names: list[str], fields: list[str]) -> Record:
    problem = "" if len(fields) == len(names) else "more or fewer fields than columns"
    return Record(origin, dict(zip(names, fields, strict=False)), problem)


def json_lines(file: File, encoding: str) -> Records:
    """A .jsonl: one JSON object per line; blank lines are skipped."""
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
    """A .json: a list of objects, or questions in the format of SQuAD (Rajpurkar et al. 2016)."""
    with file.text(encoding) as stream:
        try:
            content = json.load(stream)
        except json.JSONDecodeError as error:
            raise DataError(f"{file.name}:{error.lineno}: not JSON ({error.msg})", f"correct {file.name}") from None
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
            f"correct {file.name}, or write it as .jsonl",
        ) from None


def _squad(name: str, content: dict[str, Any]) -> Iterator[Record]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for entry in paragraph["qas"]:
                values = {"context": paragraph["context"], "title": article.get("title", ""), **entry}
                yield Record(f"{name}:{entry['id']}", values)
