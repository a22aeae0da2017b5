"""Documents: the text, its label where there is one, and where it came from.

On disk a data set is a JSON Lines file, one document a line, in the order given.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pretune.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Document:
    """One text; `label` is None where nobody has said what it is."""

    text: str
    label: str | None = None
    origin: str = ""


def write(path: Path, documents: Iterable[Document]) -> None:
    """Write documents as JSON Lines (UTF-8, keys in a fixed order)."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Document]:
    """Read what `write` wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [Document(**json.loads(line)) for line in file]


def read_table(path: Path) -> list[Document]:
    """Read a user's .jsonl or .csv with a column `text` and, where known, `label`.

    Raises DataError listing the first malformed rows by file and line.
    """
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise DataError(f"ingest.source: no file {path}{near}", "pretune run --set ingest.source=pydocs")
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise DataError(f"ingest.source: {path.name} is neither .jsonl nor .csv", "convert it, then run again")
    documents, problems = [], []
    try:
        for line, row in readers[path.suffix](path):
            text, label = row.get("text"), row.get("label")
            if not row:
                problems.append(f"{path}:{line}: not a JSON object")
            elif not isinstance(text, str) or not text.strip():
                problems.append(f"{path}:{line}: no text in column `text` (columns: {', '.join(map(str, row))})")
            elif not _is_unicode(text):
                problems.append(f"{path}:{line}: the text holds half a surrogate pair, which is no character")
            else:
                known = None if label is None or label == "" else str(label)
                documents.append(Document(text.strip(), known, f"{path.name}:{line}"))
    except csv.Error as error:
        problems.append(f"{path}: not a CSV table ({error})")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 ({error.reason} at byte {error.start})")
    if problems:
        more = [f"… and {len(problems) - 10} more rows like these"] if len(problems) > 10 else []
        raise DataError(problems[:10] + more, f"mend {path}, then: pretune run")
    return documents


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig") as file:
        for line, content in enumerate(file, start=1):
            if content.strip():
                try:
                    row = json.loads(content)
                except json.JSONDecodeError:
                    row = None
                yield line, row if isinstance(row, dict) else {}


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(2**31 - 1)  # its default refuses texts of more than 131,072 characters
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {str(key): value for key, value in row.items()}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def distinct(documents: Iterable[Document]) -> list[Document]:
    """Keep the first document of each text, preferring one that has a label."""
    found: dict[str, Document] = {}
    for document in documents:
        known = found.setdefault(document.text, document)
        if known.label is None and document.label is not None:
            found[document.text] = document
    return list(found.values())
