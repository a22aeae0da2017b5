"""Predictions of a trained model for rows of files or standard input, of any length."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from pretune.data.ingest.sources import tables, text
from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Records
from pretune.errors import DataError, NotFoundInRecordsError, did_you_mean
from pretune.release.registry import CHAMPION

Row = dict[str, Any]
LocatedRow = tuple[str, Row | str]  # the row with its file and line; a text: why the line is not a row
WINDOW = 4096  # rows that are predicted together, sorted by length
PROBLEMS = 10  # shown at most
FORMATS = ("jsonl", "csv", "text")


def folder(model: str | None) -> Path:
    """The folder with the files of a model, which is named by a folder, a run or an `@alias` in MLflow.

    Without a name: of the champion, else of the model that the workspace made last.
    """
    if model is None:
        return _default()
    path = Path(model)
    if (path / "config.json").is_file():
        return path
    from pretune.config import params
    from pretune.lineage.graph import find_root, state_dir
    from pretune.release.runs import Runs
    from pretune.tracking.client import model_folder

    if path.is_dir():
        raise DataError(f"{path} holds no model (no config.json)", "pretune run   (makes one)")
    root = find_root()
    state = state_dir(root)
    runs = Runs(root, state, params.load(root / "params.yaml").gate.name)
    return model_folder(root, state, runs.model(model))


def _default() -> Path:
    from pretune.lineage.graph import find_root
    from pretune.release.last_model import last_model

    try:
        return folder(f"@{CHAMPION}")
    except NotFoundInRecordsError:
        root = find_root()
        path = last_model(root).path
        if not (root / path / "config.json").is_file():
            raise DataError(f"there is no champion, and {path} holds no model", "pretune run   (makes one)") from None
        return root / path


def load_predictor(model: str | None) -> Any:
    """The predictor of a model: a class of pretune/predictor/, with `reads`, `gives` and a call."""
    from pretune.predictor.model import Predictor

    return Predictor(str(folder(model))).answers


def read_rows(files: Iterable[Path], stdin: IO[bytes], stdin_format: str) -> Iterator[LocatedRow]:
    """The rows of files, whose suffix tells their format; without files those of standard input."""
    for path in files:
        file_format = {".txt": "text"}.get(path.suffix, path.suffix.removeprefix("."))
        if file_format not in FORMATS:
            raise DataError(f"{path}: not a .jsonl, .csv or .txt file", "convert it, or: … | pretune predict MODEL")
        if not path.is_file():
            raise DataError(f"no file {path}{did_you_mean(path.name, [p.name for p in path.parent.glob('*')])}")
        yield from _parse(File(str(path), partial(path.open, "rb")), file_format)
    if not files:
        yield from _parse(File("standard input", lambda: stdin), stdin_format)


def as_conversations(rows: Iterable[LocatedRow], system: str) -> Iterator[LocatedRow]:
    """Rows for a chat model: a `text` is a message of the user, and the instruction `system` goes before the others."""
    for place, row in rows:
        if not isinstance(row, dict):
            yield place, row
            continue
        messages = row.get("messages")
        if messages is None and "text" in row:
            messages = [{"role": "user", "content": row["text"]}]
        if problem := _malformed(messages):
            yield place, problem
        elif system and messages and messages[0]["role"] in {"system", "developer"}:
            yield place, "`messages` begin with an instruction already, and --system gives another"
        else:
            instruction = [{"role": "system", "content": system}] if system else []
            yield place, row if messages is None else row | {"messages": instruction + messages}


def _malformed(messages: Any) -> str:
    """What is wrong with messages; empty if nothing is, or if there are none."""
    if messages is None:
        return ""
    if not isinstance(messages, list) or not messages:
        return "`messages` is not a list of messages"
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"message {number} has no role"
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            return f"the content of message {number} is not text"
    return "the last message is an answer: leave it out" if messages[-1]["role"] == "assistant" else ""


def validate(located_rows: Iterable[LocatedRow], reads: dict[str, str]) -> Iterator[list[Row]]:
    """Windows of rows with the columns that a model `reads`; DataError lists the problems of a window, by line."""
    remaining = iter(located_rows)
    while window := list(islice(remaining, WINDOW)):
        problems, rows = [], []
        for place, row in window:
            problem = row if isinstance(row, str) else _problem(row, reads)
            problems += [f"{place}: {problem}"] if problem else []
            rows.append({} if isinstance(row, str) else row)
        if problems:
            more = [f"… and {len(problems) - PROBLEMS} more rows like these"] if len(problems) > PROBLEMS else []
            raise DataError(problems[:PROBLEMS] + more, "fix these rows; earlier windows of rows are already answered")
        yield [_read_images(row, reads) for row in rows]


def predict_windows(windows: Iterable[list[Row]], model: Any, keep: list[str]) -> Iterator[list[Row]]:
    """The predictions for each window, in the order of its rows, after the columns to `keep`."""
    from pretune.predictor.conversation import ConversationError  # imports transformers, as every model does

    if both := sorted(set(keep) & set(model.gives)):
        raise DataError(f"--keep {both[0]}: the model gives a column of that name", "rename it in your file")
    for rows in windows:
        try:
            predictions = model(rows)
        except ConversationError as error:
            raise DataError(str(error), "correct these messages, or the template of the model") from None
        yield [
            {name: row.get(name) for name in keep} | prediction
            for row, prediction in zip(rows, predictions, strict=True)
        ]


def write(windows: Iterable[list[Row]], out: IO[str], out_format: str) -> int:
    """Write each window as soon as it is predicted, as jsonl or csv; returns the number of rows."""
    number = 0
    for rows in windows:
        lines = io.StringIO()
        if out_format == "csv":
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


def _parse(file: File, file_format: str) -> Iterator[LocatedRow]:
    """The rows of a file, which are read as for training. Blank lines are none."""
    readers: dict[str, Callable[..., Records]] = {
        "csv": partial(tables.comma, delimiter="auto", header=True), "jsonl": tables.json_lines, "text": text.lines,
    }  # fmt: skip
    for record in readers[file_format](file, "utf-8"):
        blank = file_format == "text" and not record.values["text"].strip()
        if not blank:
            yield record.origin, record.problem or _not_utf_8(record.values) or record.values


def _not_utf_8(values: Row) -> str:
    """Why values cannot be read: bytes that are not UTF-8 have become lone surrogates."""
    try:
        "".join(str(value) for value in values.values()).encode()
    except UnicodeEncodeError:
        return "not UTF-8: convert the file"
    return ""


def _problem(row: Row, reads: dict[str, str]) -> str:
    """The first problem of a row; empty if there is none. reads: {column: type}, with a ? for optional columns."""
    for name, column_type in reads.items():
        value = row.get(name)
        if value is None and not column_type.endswith("?"):
            near = did_you_mean(name, [str(key) for key in row])
            return f"no column `{name}`{near}; there are: {', '.join(map(str, row)) or 'none'}"
        if value is not None and column_type.startswith("string") and not isinstance(value, str):
            return f"`{name}` is {type(value).__name__}, not text"
        if value is not None and column_type.startswith("list") and not isinstance(value, list):
            return f"`{name}` is {type(value).__name__}, not a list"
    return ""


def _read_images(row: Row, reads: dict[str, str]) -> Row:
    """The row with the content of files in place of their paths, in columns of which the model reads bytes."""
    binary = [name for name, column_type in reads.items() if column_type.startswith("binary")]
    names = [name for name in binary if isinstance(row.get(name), str)]
    if missing := [row[name] for name in names if not Path(row[name]).is_file()]:
        raise DataError([f"no file {path}" for path in missing])
    return row | {name: Path(row[name]).read_bytes() for name in names}
