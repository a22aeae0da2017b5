"""From a record, with the column names of its source, to a row, with ours. Every value is checked, none is guessed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pretune.data.ingest.sources.record import Record
from pretune.data.rows import COLUMNS, Row

if TYPE_CHECKING:
    from pretune.config.data import IngestParams

CONTENT = ("text", "words", "question", "messages", "image", "x")  # a row has to hold one of these
SPLITS = ("train", "validation", "test", "corpus")
TO_SPLIT = {"dev": "validation", "valid": "validation", "val": "validation"}
SHOWN = 60  # characters of a value in a message


class BadRowError(ValueError):
    """Why a record cannot be a row: a `reason`, by which bad rows are counted, and details of this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class ColumnMapping:
    """Makes rows of records by the columns, labels and missing values that the section `ingest` names."""

    def __init__(self, params: IngestParams) -> None:
        self._columns: dict[str, Any] = {ours: _names(theirs) for ours, theirs in params.columns.items()}
        self._labels = {str(value): name for value, name in params.labels.items()}
        self._missing = {"", *params.missing}
        self._label_type: type | None = None

    def names(self, column: str, count: int) -> list[str]:
        """The names of the `count` numbers of `x` or `y`: those in the source, else `x1`, `x2` and so on."""
        names = self._columns.get(column, [])
        return names if isinstance(names, list) and len(names) == count else [f"{column}{n + 1}" for n in range(count)]

    def row(self, record: Record) -> Row:
        """The row of a record. Raises BadRowError with the reason."""
        if record.problem:
            raise BadRowError(record.problem)
        row = {}
        for ours in self._columns or [name for name in record.values if name in COLUMNS]:
            value = self._value(record.values, ours)
            if value is not None:
                row[ours] = self._label(value) if ours == "label" else READERS[ours](value, ours)
        row.pop("origin", None)
        if not any(name in row for name in CONTENT):
            expected = next((name for name in self._columns if name in CONTENT), "text")
            raise BadRowError(f"no {expected}", f"the columns are {', '.join(map(str, record.values)) or 'none'}")
        _check(row)
        return row | {"origin": record.origin}

    def _value(self, values: dict[str, Any], ours: str) -> Any:
        """The value of one of our columns, from one or several columns of the source; None where it is missing."""
        theirs = self._columns.get(ours, ours)
        if isinstance(theirs, dict):  # a conversation: {role: column}
            turns = [{"role": role, "content": self._present(values, name)} for role, name in theirs.items()]
            return [turn for turn in turns if turn["content"] is not None]
        if isinstance(theirs, str):
            return self._present(values, theirs)
        parts = [value for name in theirs if (value := self._present(values, name)) is not None]
        if ours in {"x", "y"}:
            if ours == "y" and not parts:
                return None  # a row without targets can still be used for pretraining
            if len(parts) < len(theirs):
                raise BadRowError(f"{ours}: a number is missing", f"{len(parts)} instead of {len(theirs)}")
            return parts
        if not all(isinstance(value, str) for value in parts):
            raise BadRowError(f"{ours}: no text", f"one of {', '.join(theirs)}")
        return "\n".join(parts) if parts else None

    def _present(self, values: dict[str, Any], name: str) -> Any:
        """The value of a column, None where it is missing."""
        value = values.get(name)
        if isinstance(value, str) and value.strip() in self._missing:
            return None
        return value

    def _label(self, value: Any) -> str:
        if isinstance(value, bool | int | str):
            label_type: type = str if isinstance(value, str) else int
        elif isinstance(value, float) and value.is_integer():
            label_type, value = int, int(value)
        else:
            raise BadRowError("label: neither a word nor a whole number", _shown(value))
        self._label_type = self._label_type or label_type
        if label_type is not self._label_type:
            words = {str: "a text", int: "a number"}
            raise BadRowError(f"label: {words[label_type]}, and those before it are not", _shown(value))
        name = str(value).strip()
        if self._labels and name not in self._labels:
            raise BadRowError("label: not in ingest.labels", _shown(name))
        return self._labels.get(name, name)


def _names(theirs: Any) -> str | list[str] | dict[str, str]:
    if isinstance(theirs, dict):
        return {role: str(name) for role, name in theirs.items()}
    return [str(name) for name in theirs] if isinstance(theirs, list) else str(theirs)


def _check(row: Row) -> None:
    """Raise BadRowError where the columns of a row do not fit together."""
    if "words" in row and "tags" in row and len(row["words"]) != len(row["tags"]):
        raise BadRowError("tags: not one for each word", f"{len(row['tags'])} for {len(row['words'])}")
    if ("question" in row) != ("context" in row):
        raise BadRowError("a question needs a context, and a context a question")
    if "answers" in row and "context" not in row:
        raise BadRowError("answers: there is no context to find them in")
    for answer in row.get("answers", []):
        start, text = answer["start"], answer["text"]
        if row["context"][start : start + len(text)] != text:
            raise BadRowError("answers: not in the context where it should be", f"{_shown(text)} at character {start}")


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f"{column}: no text", _shown(value))
    return value if column == "context" else value.strip()  # answers count the characters of a context


def _texts(value: Any, column: str) -> list[str]:
    """A list, or text: a JSON list, or `labels` separated by commas, words and tags by white space."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, column)
    if isinstance(value, str):
        parts = value.split(",") if column == "labels" else value.split()
        value = [part.strip() for part in parts]
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise BadRowError(f"{column}: no list of texts", _shown(value))
    return [str(item) for item in value]


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRowError(f"{column}: no number", _shown(value)) from None
    if not math.isfinite(number):
        raise BadRowError(f"{column}: not finite", _shown(value))
    return number


def _numbers(value: Any, column: str) -> list[float]:
    value = _json(value, column) if isinstance(value, str) else value
    return [_number(item, column) for item in (value if isinstance(value, list) else [value])]


def _answers(value: Any, column: str) -> list[dict[str, Any]]:
    """The list of {text, answer_start} of SQuAD, or the two lists into which `datasets` turns it."""
    value = _json(value, column) if isinstance(value, str) else value
    try:
        if isinstance(value, dict):
            starts = value["answer_start"] if "answer_start" in value else value["start"]
            return [{"text": t, "start": int(s)} for t, s in zip(value["text"], starts, strict=True)]
        return [{"text": item["text"], "start": int(item.get("answer_start", item.get("start")))} for item in value]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise BadRowError(f"{column}: no list of {{text, answer_start}}", _shown(value)) from None


def _messages(value: Any, column: str) -> list[dict[str, str]]:
    value = _json(value, column) if isinstance(value, str) else value
    try:
        turns = [{"role": turn["role"], "content": turn["content"].strip()} for turn in value]
    except (TypeError, KeyError, AttributeError):
        raise BadRowError(f"{column}: no list of {{role, content}}", _shown(value)) from None
    unknown = sorted({str(turn["role"]) for turn in turns} - {"system", "user", "assistant"})
    if unknown or not turns:
        raise BadRowError(f"{column}: other roles than system, user and assistant", ", ".join(unknown) or "none")
    return turns


def _image(value: Any, column: str) -> bytes:
    """A PNG file, from the bytes of an image, {bytes, path} of `datasets`, or an array (rows, columns[, 3]) uint8."""
    from PIL import Image, UnidentifiedImageError

    value = value.get("bytes") if isinstance(value, dict) else value
    try:
        if isinstance(value, np.ndarray):
            picture = Image.fromarray(value)
        elif isinstance(value, bytes):
            picture = Image.open(io.BytesIO(value))
            picture = picture if picture.mode in {"L", "RGB"} else picture.convert("RGB")
        else:
            raise BadRowError(f"{column}: no image", _shown(value))
        png = io.BytesIO()
        picture.save(png, "PNG")
    except (UnidentifiedImageError, OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise BadRowError(f"{column}: no image that can be opened", type(error).__name__) from None
    return png.getvalue()


def _split(value: Any, column: str) -> str:
    name = TO_SPLIT.get(value, value)
    if name not in SPLITS:
        raise BadRowError(f"{column}: none of {', '.join(SPLITS)}", _shown(value))
    return str(name)


def _group(value: Any, column: str) -> str:
    if not isinstance(value, str | int):
        raise BadRowError(f"{column}: no key", _shown(value))
    return str(value)


def _json(value: str, column: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise BadRowError(f"{column}: no JSON", _shown(value)) from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


READERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("text", "pair", "question", "context", "target"), _text),
    **dict.fromkeys(("labels", "words", "tags"), _texts),
    "score": _number,
    **dict.fromkeys(("x", "y"), _numbers),
    "answers": _answers,
    "messages": _messages,
    "image": _image,
    "split": _split,
    "group": _group,
    "origin": lambda value, _: value,
}
