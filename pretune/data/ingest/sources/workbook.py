"""Workbooks of Excel (.xlsx) with one sheet."""

from __future__ import annotations

import datetime as dt
import os
from typing import Any
from zipfile import ZipFile

from pretune.data.ingest.sources import tables
from pretune.data.ingest.sources.archives import check_sizes
from pretune.data.ingest.sources.files import BROKEN, File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

UNREADABLE = (  # what openpyxl raises for a broken file
    *BROKEN, LookupError, ValueError, TypeError, SyntaxError, AttributeError, ArithmeticError, AssertionError,
    RecursionError,
)  # fmt: skip


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
            check_sizes(file, ZipFile(raw), raw.seek(0, os.SEEK_END))
            values, formulas = (openpyxl.load_workbook(raw, read_only=True, data_only=only) for only in (True, False))
            yield from _records(file, values, formulas, header=header)
        except UNREADABLE as error:
            raise DataError(f"{file.name}: not a workbook of Excel ({error})", f"correct {file.name}") from None


def _records(file: File, values: Any, formulas: Any, *, header: bool) -> Records:
    """The rows of the sheet; values, formulas: the workbook with the one or the other."""
    for sheet in (*values.worksheets, *formulas.worksheets):
        sheet.reset_dimensions()  # what a file says of its size may be wrong
    filled = [
        sheet
        for sheet in values.worksheets
        if any(value is not None for row in sheet.iter_rows() for value in _row(row))
    ]
    if len(filled) > 1:
        titles = ", ".join(sheet.title for sheet in filled)
        raise DataError(f"{file.name}: has {len(filled)} sheets ({titles})", "save the one to read as its own file")
    names: list[str] = []
    for sheet in filled:
        rows = zip(sheet.iter_rows(), formulas[sheet.title].iter_rows(), strict=True)
        for number, (cells, written) in enumerate(rows, start=1):
            fields = _row(cells)
            problem = next(filter(None, map(_problem, cells, written)), "")
            if not problem and not any(field is not None for field in fields):
                continue
            if not names:
                named = ["" if field is None or not header else str(field) for field in fields]
                names = tables.column_names(file, named)
                if header:
                    continue
            if any(field is not None for field in fields[len(names) :]):
                problem = "more fields than columns"
            padded = [*fields, *[None] * len(names)]
            yield Record(f"{file.name}:{number}", dict(zip(names, padded, strict=False)), problem)


def _problem(cell: Any, written: Any) -> str:
    """Why a cell has no value, although something is in it."""
    if cell.data_type == "e":
        return f"an error of Excel: {cell.value}"
    return "a formula without a stored value: save it in Excel" * (cell.value is None and written.data_type == "f")


def _row(cells: tuple[Any, ...]) -> list[Any]:
    return [_value(cell.value) for cell in cells]


def _value(value: Any) -> Any:
    """A text, number, truth value or None; dates as ISO 8601, at midnight without the time; durations as `6:30:00`."""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    return None if value == "" else value
