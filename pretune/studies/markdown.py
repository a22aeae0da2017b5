"""Texts and tables as Markdown, for pages of the documentation."""

from __future__ import annotations

import re
from typing import Any

from pretune.pages.render import Table

SPECIAL = re.compile(r"[\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word means nothing
STARTS = re.compile(r"^(\s*)([#+-]|\d+(?=\.\s))", re.MULTILINE)  # of headings and lists
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def text_markdown(text: str) -> str:
    """A text that reads the same as Markdown: what Markdown or HTML would take as a mark is escaped."""
    escaped = SPECIAL.sub(lambda match: "\\" + match[0], text.translate(ENTITIES))
    return STARTS.sub(lambda match: match[1] + (match[2] + "\\" if match[2].isdigit() else "\\" + match[2]), escaped)


def table_markdown(table: Table) -> str:
    """A table, without its title; "none" without rows."""
    if not table.body:
        return "none\n"
    columns = len(table.head)
    marks = ["---" if number < table.text_columns else "---:" for number in range(columns)]
    rows = [_row(table.head), _row(marks, plain=True), *(_row(cells) for cells in table.body)]
    return "".join(rows)


def file_name(title: str) -> str:
    """A title as the start of a file's name: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "figure"


def _row(cells: list[Any], *, plain: bool = False) -> str:
    return f"| {' | '.join(str(cell) if plain else _cell(cell) for cell in cells)} |\n"


def _cell(cell: Any) -> str:
    """An estimate with its interval, as on the HTML pages; a dash if it has no value."""
    if isinstance(cell, dict):
        return f"{cell['value']:.4g} ({cell['low']:.4g} to {cell['high']:.4g})" if cell else "-"
    return " ".join(text_markdown(str(cell)).split())
