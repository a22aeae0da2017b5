"""A user's table: a .jsonl or .csv file with a column `text` and, where known, `label`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pretune.data.rows import Row
from pretune.errors import DataError, did_you_mean


def read(path: Path) -> list[Row]:
    """Read a table.

    Raises DataError listing the first malformed rows by file and line.
    """
    if not path.is_file():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise DataError(f"ingest.source: no file {path}{near}", "pretune run --set ingest.source=pydocs")
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise DataError(f"ingest.source: {path.name} is neither .jsonl nor .csv", "convert it, then run again")
    found: list[Row] = []
    problems = []
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
                known = {} if label is None or label == "" else {"label": str(label)}
                found.append({"text": text.strip(), **known, "origin": f"{path.name}:{line}"})
    except csv.Error as error:
        problems.append(f"{path}: not a CSV table ({error})")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 ({error.reason} at byte {error.start})")
    if problems:
        more = [f"… and {len(problems) - 10} more rows like these"] if len(problems) > 10 else []
        raise DataError(problems[:10] + more, f"mend {path}, then: pretune run")
    return found


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


def distinct(found: Iterable[Row]) -> list[Row]:
    """Keep the first row of each text, preferring one that has a label."""
    kept: dict[str, Row] = {}
    for row in found:
        known = kept.setdefault(row["text"], row)
        if "label" not in known and "label" in row:
            kept[row["text"]] = row
    return list(kept.values())
