"""Plain text: a document is a file, a line, or a block of lines between blank lines."""

from __future__ import annotations

from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records


def whole(file: File, encoding: str) -> Records:
    """One document per file."""
    with file.text(encoding) as stream:
        yield Record(file.name, {"text": stream.read()})


def lines(file: File, encoding: str) -> Records:
    """One document per line, empty lines included: they can be aligned with lines of another file."""
    with file.text(encoding) as stream:
        for number, line in enumerate(stream, start=1):
            yield Record(f"{file.name}:{number}", {"text": line.rstrip("\n")})


def blocks(file: File, encoding: str) -> Records:
    """One document per block of lines; blank lines separate blocks."""
    with file.text(encoding) as stream:
        block: list[str] = []
        start = 1
        for number, line in enumerate(stream, start=1):
            if line.strip():
                start = start if block else number
                block.append(line)
            elif block:
                yield Record(f"{file.name}:{start}", {"text": "".join(block)})
                block = []
        if block:
            yield Record(f"{file.name}:{start}", {"text": "".join(block)})
