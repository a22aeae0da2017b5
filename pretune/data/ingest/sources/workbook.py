"""Workbooks of Excel (.xlsx) with one sheet."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zipfile import BadZipFile

from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError


def sheet(file: File, *, header: bool) -> Records:
    """The rows of the only sheet that has any, at most as wide as its header; empty rows are left out.

    Values are those that Excel stored: the results of formulas, whole numbers as such, dates as 2026-01-31. Raises
    DataError for several sheets with rows, for two columns of the same name, and without openpyxl.
    """
    try:
        import openpyxl
    except ImportError:
        raise DataError(f"{file.name}: .xlsx needs the package openpyxl", "pip install 'pretune[excel]'") from None
    with file.seekable() as raw:
        try:
            book = openpyxl.load_workbook(raw, read_only=True, data_only=True)
        except (BadZipFile, KeyError, ValueError) as error:
            raise DataError(f"{file.name}: not a workbook of Excel ({error})", f"correct {file.name}") from None
        filled = [table for table in book.worksheets if any(any(_row(row)) for row in table.iter_rows(max_row=50))]
        if len(filled) > 1:
            titles = ", ".join(table.title for table in filled)
            raise DataError(f"{file.name}: has {len(filled)} sheets ({titles})", "save the one to read as its own file")
        names: list[str] = []
        for table in filled:
            for number, cells in enumerate(table.iter_rows(), start=1):
                fields = _row(cells)
                if not any(field is not None for field in fields):
                    continue
                if not names:
                    names = _names(file, fields, header=header)
                    if header:
                        continue
                extra = any(field is not None for field in fields[len(names) :])
                values = dict(zip(names, [*fields, *[None] * len(names)], strict=False))
                yield Record(f"{file.name}:{number}", values, "more fields than columns" if extra else "")


def _names(file: File, fields: list[Any], *, header: bool) -> list[str]:
    numbers = [str(number) for number in range(1, len(fields) + 1)]
    if not header:
        return numbers
    names = [number if field is None else str(field).strip() for number, field in zip(numbers, fields, strict=True)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{file.name}: two columns are called {', '.join(repeated)}", f"rename one in {file.name}")
    return names


def _row(cells: tuple[Any, ...]) -> list[Any]:
    return [_value(cell.value) for cell in cells]


def _value(value: Any) -> Any:
    """A text, number, truth value or None; dates as ISO 8601, at midnight without the time."""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return None if value == "" else value
