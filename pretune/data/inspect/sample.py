"""A sample of each file: how it is read, its first records, and how many it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pretune.config.data import IngestParams
from pretune.data.ingest.sources import conll, dialect, read, remote
from pretune.data.ingest.sources.files import COMPRESSED, File
from pretune.data.ingest.sources.record import Record
from pretune.data.inspect import encoding
from pretune.data.inspect.encoding import Encoding
from pretune.data.inspect.places import TEXTS, Source, place_of
from pretune.errors import DataError, PretuneError

BYTES = 2**26  # of each file by which its encoding is found
RECORDS = 50_000  # of each source that are read
CHARACTERS = 2**26  # after which a sample ends
MANY = 400  # files of which some are read
LINES = 5  # from which a text file can be a table
TEXTUAL = {"blocks", "csv", "tsv", "jsonl", "json", "conll"}  # formats that have an encoding
PROSE = 0.98  # share of lines with as many commas, from which a text file is a table


Seen = tuple[dict[str, str], tuple[tuple[str, str], ...]]  # {setting: reason}, (what is not sure, the setting of it)


@dataclass(frozen=True)
class Reading:
    """How a file is read, as settings of `ingest`. why, doubts: as in Seen."""

    format: str = "auto"
    encoding: str = "utf-8"
    delimiter: str = "auto"
    header: bool = True
    why: dict[str, str] = field(default_factory=dict, compare=False)
    doubts: tuple[tuple[str, str], ...] = field(default=(), compare=False)


@dataclass
class Sample:
    """Records of a source. total: of all its records, exact if `whole`."""

    source: Source
    records: list[tuple[str | None, Record]]
    total: int
    whole: bool


def reading(source: Source) -> Reading:
    """How the files of a source are read: by the first of them, all by their encodings."""
    files = [_file(path) for path in _some(source.files)]
    if isinstance(source.place, str) and source.is_remote:
        files = remote.find(source.place)
    if source.layout == "images":
        return Reading("images", why={"format": "images, the folder is the label"})
    textual = [file for file in files if read.ENDINGS.get(file.ending, "csv") in TEXTUAL]
    encoded = _encoding(textual)
    if encoded is None:
        return Reading()
    doubts = () if encoded.sure else ((f"encoding {encoded.name}: {encoded.why}", "ingest.encoding in params.yaml"),)
    seen: Seen = {"encoding": encoded.why}, doubts
    if source.layout == "folders":
        return Reading("folders", encoded.name, why=seen[0] | {"format": "a folder for each label"}, doubts=doubts)
    if source.aligned or read.ENDINGS.get(textual[0].ending) in {"jsonl", "json"}:
        return Reading("auto", encoded.name, why=seen[0], doubts=doubts)
    return _lines(textual[0], encoded, seen)


def _lines(file: File, encoded: Encoding, seen: Seen) -> Reading:
    """How the lines of a text file are read."""
    lines = list(islice(file.lines(encoded.name), dialect.SAMPLE))
    if conll.looks_like(lines) or read.ENDINGS.get(file.ending) == "conll":
        why = seen[0] | {"format": "a word and its tag on each line, blank lines between sentences"}
        return Reading("conll", encoded.name, why=why, doubts=seen[1])
    if file.ending in TEXTS or file.ending == "":
        return _text(file, lines, encoded, seen)
    return _table(file, lines, encoded, seen)


def _text(file: File, lines: list[str], encoded: Encoding, seen: Seen) -> Reading:
    """A text file may hold a table, a document on each line, or documents between blank lines."""
    found, (why, doubts) = dialect.sniff(lines), seen
    if len(lines) >= LINES and found.columns > 1 and _agreement(lines, found.delimiter) >= PROSE:
        return _table(file, lines, encoded, (why | {"format": "a table, by its fields"}, doubts), file_format="csv")
    lined = len(lines) >= LINES and all(line.strip() for line in lines)
    reason = "no blank lines: a document is a line" if lined else "documents are separated by blank lines"
    return Reading("lines" if lined else "auto", encoded.name, why=why | {"format": reason}, doubts=doubts)


def _agreement(lines: list[str], delimiter: str) -> float:
    counts = [line.count(delimiter) for line in lines if line.strip()]
    return sum(count == counts[0] for count in counts) / len(counts) if counts and counts[0] else 0.0


def _table(
    file: File,
    lines: list[str],
    encoded: Encoding,
    seen: Seen,
    file_format: str = "auto",
) -> Reading:
    """The dialect of a table. A .tsv whose fields are in quotation marks is read as .csv with tabs."""
    found, (why, doubts) = dialect.sniff(lines), seen
    why = why | {"delimiter": found.why}
    if file.ending == ".tsv":
        has_header = dialect.sniff([line.replace('"', "") for line in lines]).has_header
        fields = lines[-1].strip().split("\t") if lines else []
        if found.delimiter == "\t" and any(len(f) > 1 and f.startswith('"') and f.endswith('"') for f in fields):
            why["quoting"] = "fields in quotation marks"
            return Reading("csv", encoded.name, "tab", has_header, why | {"header": _header(has_header)}, doubts)
        why["delimiter"], why["quoting"] = "tab, by the ending .tsv", "quotation marks are ordinary characters"
    else:
        has_header, why["quoting"] = found.has_header, "quotation marks, by the format .csv"
    return Reading(file_format, encoded.name, "auto", has_header, why | {"header": _header(has_header)}, doubts)


def _header(has_header: bool) -> str:
    return "the first line holds names" if has_header else "the first line holds values: columns have numbers"


def _encoding(files: list[File]) -> Encoding | None:
    """The encoding of all files. DataError where they have several."""
    found = {file.name: encoding.detect(_head(file)) for file in files}
    names = {e.name for e in found.values()} - {"utf-8"}
    beyond = {e.name for e in found.values() if e.why != "ASCII only"}
    if len(beyond) > 1:
        by_name = {e.name: name for name, e in found.items() if e.name in beyond}
        raise DataError(
            "files of several encodings: " + ", ".join(f"{name} in {encoded}" for encoded, name in by_name.items()),
            f"iconv -f {next(iter(names))} -t utf-8 {by_name[next(iter(names))]} > NEW   (then name NEW)",
        )
    chosen = [e for e in found.values() if e.why != "ASCII only"] or list(found.values())
    return chosen[0] if chosen else None


def _head(file: File) -> bytes:
    with file.binary() as stream:
        return stream.read(BYTES)


def compression(source: Source) -> str:
    """The compression of the files of a source, by their endings."""
    endings = sorted({path.suffix for path in source.files if path.suffix in COMPRESSED})
    return ", ".join(endings) or "none"


def _file(path: Path) -> File:
    return File(str(path), lambda: path.open("rb"))


def _some(files: list[Path], count: int = MANY) -> list[Path]:
    """At most `count` files, spread over all."""
    return files[:: 1 + (len(files) - 1) // count] if files else []


def take(source: Source, params: IngestParams, root: Path) -> Sample:
    """A sample of a source, read as `ingest` would. Raises DataError where nothing can be read."""
    some = _some(source.files)
    fewer = len(some) < len(source.files)
    records: list[tuple[str | None, Record]] = []
    whole, size = not fewer, 0
    for split, record in (
        _fewer(source, some, params, root) if fewer else _records(source.aligned or source.place, params, root)
    ):
        records.append((source.split or split, record))
        size += _size(record)
        if len(records) >= RECORDS or size > CHARACTERS:
            whole = False
            break
    share = len(some) / max(1, len(source.files))
    return Sample(source, records, _total(source, records, size, whole=whole, share=share), whole)


def _records(place: Any, params: IngestParams, root: Path) -> Iterator[tuple[str | None, Record]]:
    own = params.model_copy(update={"source": place, "allow": ["outside", "network"]})
    yield from read.read(own, lambda path: root / path)


def _fewer(source: Source, some: list[Path], params: IngestParams, root: Path) -> Iterator[tuple[str | None, Record]]:
    """The records of some of the files. A file by itself does not say in which folder of labels it lies."""
    for path in some:
        for split, record in _records(place_of(root, path), params, root):
            label = {"label": path.parent.name} if source.layout else {}
            yield split, replace(record, values=record.values | label)


def _size(record: Record) -> int:
    return sum(len(value) if isinstance(value, str | bytes) else 50 for value in record.values.values())


def _total(source: Source, records: list[Any], size: int, *, whole: bool, share: float) -> int:
    """The number of records: counted, from Parquet's metadata, or by the size of the files."""
    if whole:
        return len(records)
    if source.files and all(path.suffix == ".parquet" for path in source.files):
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in source.files)
    if len(records) < RECORDS and size <= CHARACTERS and share:
        return round(len(records) / share)
    stored = sum(path.stat().st_size * (3 if path.suffix in COMPRESSED else 1) for path in source.files)
    return max(len(records), round(len(records) * stored / max(1, size)))


def unreadable(sources: Iterable[Source]) -> Iterator[str]:
    """The problems of sources whose files cannot be opened or decoded, one line each."""
    for source in sources:
        for path in source.files[:MANY]:
            try:
                with _file(path).binary() as stream:
                    if not stream.read(1) and len(source.files) == 1:
                        yield f"{path}: is empty"
            except PretuneError as error:
                yield from error.problems
