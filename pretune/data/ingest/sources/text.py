"""Plain text: a document is a file, a line, or a block of lines between blank lines."""

from __future__ import annotations

from itertools import chain
from pathlib import PurePosixPath

from pretune.data.ingest.sources import conll, dialect
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records

MANY_LINES = 20  # without a blank line between them


def whole(file: File, encoding: str) -> Records:
    """One document per file."""
    yield Record(file.name, {"text": _content(file, encoding)})


def in_folder(file: File, encoding: str) -> Records:
    """One document per file; `label` is the name of its folder."""
    yield Record(file.name, {"text": _content(file, encoding), "label": PurePosixPath(file.name).parent.name})


def _content(file: File, encoding: str) -> str:
    return "".join(map(_with_line_feed, file.lines(encoding)))


def lines(file: File, encoding: str) -> Records:
    """One document per line, empty lines included: they can be aligned with lines of another file."""
    for number, line in enumerate(conll.lines_of_others(file, encoding)[1], start=1):
        yield Record(f"{file.name}:{number}", {"text": line.removesuffix("\n").removesuffix("\r")})


def blocks(file: File, encoding: str) -> Records:
    """One document per block of lines; blank lines separate blocks.

    A file that is one block of many lines draws a warning: they may be documents, or rows.
    """
    block: list[str] = []
    start, first = 1, True
    for number, line in enumerate(chain(conll.lines_of_others(file, encoding)[1], [""]), start=1):
        if line.strip():
            start = start if block else number
            block.append(_with_line_feed(line))
        elif block:
            single = first and not line and len(block) > MANY_LINES
            yield Record(f"{file.name}:{start}", {"text": "".join(block)}, warning=_advice(block) if single else "")
            block, first = [], False


def _advice(block: list[str]) -> str:
    found = dialect.sniff(block)
    table = f", format: csv a table ({found.why})" if found.columns > 1 else ""
    return f"one document of {len(block)} lines; ingest.format: lines makes each line one{table}"


def _with_line_feed(line: str) -> str:
    return line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line
