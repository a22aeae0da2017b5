"""Records: what a source holds, before its columns are those of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """`values` by the source's own names, or the `problem` that kept them from being read.

    origin: file and line (or key) where it stands.
    """

    origin: str
    values: dict[str, Any]
    problem: str = ""


Records = Iterator[Record]
