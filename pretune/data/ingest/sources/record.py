"""Records: the entries of a source, before its columns are mapped to those of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """`values` by the column names of the source, or the `problem` for which they could not be read.

    origin: the file and the line or key. warning: what is unusual about a record that is read all the same.
    part: of a mixture.
    """

    origin: str
    values: dict[str, Any]
    problem: str = ""
    warning: str = ""
    part: str = ""


Records = Iterator[Record]
