"""Ask a trained model about rows: from files or standard input, in streams of any length."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from pretune.errors import DataError, did_you_mean

Row = dict[str, Any]
Located = tuple[str, Row | None]  # file and line; None for what is no row
WINDOW = 4096  # rows that are sorted by length and asked together
SHOWN = 10  # problems
FORMATS = ("jsonl", "csv", "text")


def folder(model: str) -> Path:
    """The files of a model: a folder itself, else what a run or `@alias` leads to in MLflow."""
    path = Path(model)
    if (path / "config.json").is_file():
        return path
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release.runs import Runs
    from pretune.tracking.client import model_folder

    if path.is_dir():
        raise DataError(f"{path} holds no model (no config.json)", "pretune predict models/finetuned")
    root = find_root()
    state = state_dir(root)
    runs = Runs(root, state, params.load(root / "params.yaml").gate.name)
    return model_folder(root, state, runs.model(model))


def answers(model: str) -> Any:
    """What answers for a model: a class of pretune/predictor/, with `reads`, `gives` and a call."""
    from pretune.predictor.model import Predictor

    return Predictor(str(folder(model))).answers


def located(files: Iterable[Path], stdin: IO[str], kind: str) -> Iterator[Located]:
    """The rows of files, told apart by their suffix, or of standard input in the format `kind`."""
    for path in files:
        name = {".txt": "text"}.get(path.suffix, path.suffix.removeprefix("."))
        if name not in FORMATS:
            raise DataError(f"{path}: not a .jsonl, .csv or .txt file", "convert it, or: … | pretune predict MODEL")
        if not path.is_file():
            raise DataError(f"no file {path}{did_you_mean(path.name, [p.name for p in path.parent.glob('*')])}")
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _parsed(file, name, str(path))
    if not files:
        yield from _parsed(stdin, kind, "standard input")


def checked(found: Iterable[Located], reads: dict[str, str]) -> Iterator[list[Row]]:
    """Windows of rows with the columns that a model `reads`; DataError lists what is wrong in a window, by line."""
    remaining = iter(found)
    while window := list(islice(remaining, WINDOW)):
        problems, rows = [], []
        for place, row in window:
            wrong = "not a JSON object" if row is None else _wrong(row, reads)
            problems += [f"{place}: {wrong}"] if wrong else []
            rows.append(row or {})
        if problems:
            more = [f"… and {len(problems) - SHOWN} more rows like these"] if len(problems) > SHOWN else []
            raise DataError(problems[:SHOWN] + more, "mend these rows; what came before them has been answered")
        yield [_read_images(row, reads) for row in rows]


def answered(windows: Iterable[list[Row]], model: Any, keep: list[str]) -> Iterator[list[Row]]:
    """The answers to each window, in the order of its rows, with the columns to `keep` before them."""
    if both := sorted(set(keep) & set(model.gives)):
        raise DataError(f"--keep {both[0]}: the model gives a column of that name", "rename it in your file")
    for rows in windows:
        found = model(rows)
        yield [{name: row.get(name) for name in keep} | said for row, said in zip(rows, found, strict=True)]


def write(windows: Iterable[list[Row]], out: IO[str], kind: str) -> int:
    """Write each window as soon as it is there, as jsonl or csv; returns the number of rows."""
    number = 0
    for rows in windows:
        lines = io.StringIO()
        if kind == "csv":
            table = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
            if not number:
                table.writeheader()
            table.writerows(rows)
        else:
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        out.write(lines.getvalue())
        out.flush()
        number += len(rows)
    return number


def _parsed(file: IO[str], kind: str, name: str) -> Iterator[Located]:
    try:
        if kind == "csv":
            csv.field_size_limit(sys.maxsize)
            reader = csv.DictReader(file)
            for row in reader:
                yield f"{name}:{reader.line_num}", {str(key): value for key, value in row.items()}
            return
        for number, line in enumerate(file, start=1):
            content = line.rstrip("\r\n")
            if content.strip():
                yield f"{name}:{number}", {"text": content} if kind == "text" else _json(content)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 ({error.reason} at byte {error.start})", "convert it") from None
    except csv.Error as error:
        raise DataError(f"{name}: not a CSV table ({error})") from None


def _json(line: str) -> Row | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _wrong(row: Row, reads: dict[str, str]) -> str:
    """What is wrong with a row, if anything."""
    for name, kind in reads.items():
        value = row.get(name)
        if value is None and not kind.endswith("?"):
            near = did_you_mean(name, [str(key) for key in row])
            return f"no column `{name}`{near}; there are: {', '.join(map(str, row)) or 'none'}"
        if value is not None and kind.startswith("string") and not isinstance(value, str):
            return f"`{name}` is {type(value).__name__}, not text"
        if value is not None and kind.startswith("list") and not isinstance(value, list):
            return f"`{name}` is {type(value).__name__}, not a list"
    return ""


def _read_images(row: Row, reads: dict[str, str]) -> Row:
    """Paths of files become their bytes, where the model reads bytes."""
    names = [name for name, kind in reads.items() if kind.startswith("binary") and isinstance(row.get(name), str)]
    if missing := [row[name] for name in names if not Path(row[name]).is_file()]:
        raise DataError([f"no file {path}" for path in missing])
    return row | {name: Path(row[name]).read_bytes() for name in names}
