"""From a record, with the column names of its source, to a row, with ours. Every value is checked, none is guessed.

`ingest.columns` adds names: a column of the source that has one of our names is used as well, unless it is mapped to
another of our columns, or switched off (`{score: null}`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pretune.data.ingest import conversations, layouts, values
from pretune.data.ingest.layouts import Names
from pretune.data.ingest.sources.record import Record
from pretune.data.ingest.values import BadRowError, canonical, is_empty, shown
from pretune.data.rows import COLUMNS, Row
from pretune.errors import ParamsError

if TYPE_CHECKING:
    from pretune.config.data import IngestParams

CONTENT = ("text", "words", "question", "messages", "image", "x")  # a row has to hold one of these
INPUTS = {*CONTENT, "pair", "context", "target", "chosen", "rejected"}  # who maps one of them has chosen a layout
OWN = ("origin", "part")  # columns that no column of a source is
CORPUS = "corpus"
ABSENT = object()  # the value of a column that a record does not have
PARTS = {"text", "answer_start", "start"}  # of the objects in `answers`


class ColumnMapping:
    """Makes rows of records by the columns, labels and missing values that the section `ingest` names."""

    def __init__(self, params: IngestParams) -> None:
        self._mapped: dict[str, Names] = {o: _names(t) for o, t in params.columns.items() if t is not None}
        self._off = {ours for ours, theirs in params.columns.items() if theirs is None}
        self._labels = _label_names(params.labels)
        self._missing = {canonical(word) for word in params.missing}
        self._label_type: type | None = None

    def names(self, column: str, count: int) -> list[str]:
        """The names of the `count` numbers of `x` or `y`: those in the source, else `x1`, `x2` and so on."""
        names = self._mapped.get(column, [])
        return names if isinstance(names, list) and len(names) == count else [f"{column}{n + 1}" for n in range(count)]

    def mapped(self) -> dict[str, str]:
        """{column of the source: ours} of all columns that `ingest.columns` names."""
        return {name: ours for ours, theirs in self._mapped.items() for name in _flat(theirs)}

    def row(self, record: Record, split: str | None = None) -> Row:
        """The row of a record in this split. Raises BadRowError with the reason."""
        if record.problem:
            reason, _, detail = record.problem.partition(": ")
            raise BadRowError(reason, detail)
        row: Row = {}
        sources = self.sources(record.values, split)
        for ours, theirs in sources.items():
            value = self._value(record.values, ours, theirs)
            if value is not None and (read := self._read(ours, value)) is not None:
                row[ours] = read
        row = conversations.fit(row)
        if not any(name in row for name in CONTENT):
            expected = next((name for name in sources if name in CONTENT), "")
            columns = f"the columns are {', '.join(map(str, record.values)) or 'none'}"
            raise BadRowError(f"no {expected or 'text'}", "" if expected else columns)
        _check(row)
        return row | {"origin": record.origin} | ({"part": record.part} if record.part else {})

    def unused(self, record: Record, split: str | None = None) -> Iterator[str]:
        """The columns of a record that hold a value and are not used, `a.b` for a part of one."""
        return _unused(
            record.values, {name for theirs in self.sources(record.values, split).values() for name in _flat(theirs)}
        )

    def sources(self, record: dict[str, Any], split: str | None) -> dict[str, Names]:
        """{our column: those of the source} for a record: those mapped, those of a known layout, those with our names.

        A file of the split `corpus` need not have the columns that are mapped: documents are called `text`.
        """
        mapped = self._mapped
        if split == CORPUS:
            mapped = {o: t for o, t in mapped.items() if any(find(record, name) is not ABSENT for name in _flat(t))}
        if not INPUTS & (mapped.keys() | self._off):
            taken = {*self._off, *(name for theirs in mapped.values() for name in _flat(theirs))}
            layout = {o: t for o, t in layouts.columns_of(record).items() if not taken & {o, *_flat(t)}}
            mapped = layout | mapped
        else:
            layout = {}
        used = {name for theirs in mapped.values() for name in _flat(theirs)}
        taken = {*OWN, *mapped, *used, *self._off, *(layouts.REPLACED if layout else ())}
        return mapped | {name: name for name in record if name in COLUMNS and name not in taken}

    def _value(self, record: dict[str, Any], ours: str, theirs: Names) -> Any:
        """The value of one of our columns, from one or several columns of the source; None where it is missing."""
        if isinstance(theirs, str):
            return self._present(record, theirs)
        if isinstance(theirs, dict):
            return self._turns(record, theirs) if ours == "messages" else self._answers(record, theirs)
        parts = {name: value for name in theirs if (value := self._present(record, name)) is not None}
        if ours in {"x", "y", "labels"}:
            if ours != "x" and not parts:
                return None  # a row without targets can still be used for pretraining
            if len(parts) < len(theirs):
                lacking = next(name for name in theirs if name not in parts)
                raise BadRowError(
                    f"{ours}: a {'number' if ours in {'x', 'y'} else 'value'} is missing", f"{lacking} is empty"
                )
            return parts if ours == "labels" else list(parts.values())
        return _joined(parts, ours)

    def _turns(self, record: dict[str, Any], roles: dict[str, list[str]]) -> list[Row] | None:
        """A conversation from {role: columns}; a system message and a history may be missing."""
        turns: list[Row] = []
        for role, names in roles.items():
            parts = {name: value for name in names if (value := self._present(record, name)) is not None}
            value = next(iter(parts.values()), None)
            if role == "history":
                turns += [] if value is None else conversations.history(value, "messages")
            elif len(parts) == 1 and (conversations.is_conversation(value) or conversations.is_message(value)):
                turns += conversations.answer(value, "messages")
            elif content := _joined(parts, "messages"):
                turns.append({"role": role, "content": content})
            elif role != "system":
                raise BadRowError(f"messages: nothing for {role}", f"{', '.join(names)}: empty")
        return turns or None

    def _answers(self, record: dict[str, Any], fields: dict[str, list[str]]) -> dict[str, Any] | None:
        """{text, answer_start} from two columns: no answer where both are empty, None where both are absent."""
        if all(find(record, name) is ABSENT for names in fields.values() for name in names):
            return None
        found = {field: self._present(record, names[0]) for field, names in fields.items()}
        return {field: [] for field in fields} if all(value is None for value in found.values()) else found

    def _present(self, record: dict[str, Any], name: str) -> Any:
        """The value of a column, None where it is missing."""
        value = find(record, name)
        if value is ABSENT or (not isinstance(value, list | dict) and is_empty(value)):
            return None
        if self._missing and isinstance(value, bool | int | float | str) and canonical(value) in self._missing:
            return None
        return value

    def _read(self, ours: str, value: Any) -> Any:
        if ours == "label":
            return self._label(value)
        read = READERS[ours](value, ours)
        return [self._named(name, ours) for name in read] if ours in {"labels", "tags"} else read

    def _label(self, value: Any) -> str:
        if values.is_list(value):
            raise BadRowError("label: a list or an object, not one class", shown(value))
        if not values.is_name(value):
            raise BadRowError("label: neither a word nor a whole number", shown(value))
        name = canonical(value)
        label_type: type = str if isinstance(value, str) else bool if isinstance(value, bool) else int
        if not isinstance(value, str) or not (values.is_number(name) or name in {"true", "false"}):
            self._label_type = self._label_type or label_type
            if label_type is not self._label_type:
                words = {str: "a text", int: "a number", bool: "true or false"}
                raise BadRowError(f"label: {words[label_type]}, and those before it are not", shown(value))
        return self._named(name, "label")

    def _named(self, name: str, column: str) -> str:
        """The name that `ingest.labels` gives to a label."""
        if self._labels and name not in self._labels:
            raise BadRowError(f"{column}: not in ingest.labels", shown(name))
        return self._labels.get(name, name)


def find(record: dict[str, Any], name: str) -> Any:
    """The value of a column, ABSENT if there is none; `a.b` is also the value `b` of the object in column `a`."""
    if name in record:
        return record[name]
    pieces = name.split(".")
    for cut in range(1, len(pieces)):
        inner = record.get(".".join(pieces[:cut]))
        inner = values.parsed(inner) if isinstance(inner, str) and inner.lstrip().startswith("{") else inner
        if isinstance(inner, dict) and (value := find(inner, ".".join(pieces[cut:]))) is not ABSENT:
            return value
    return ABSENT


def _unused(record: dict[str, Any], used: Collection[str], prefix: str = "") -> Iterator[str]:
    for name, value in record.items():
        path = f"{prefix}{name}"
        if path == "origin" or (not isinstance(value, np.ndarray | bytes) and is_empty(value)):
            continue
        if path in used:
            yield from sorted(f"{path}.{key}" for key in _unread(value))
        elif any(other.startswith(f"{path}.") for other in used):
            yield from _unused(value, used, f"{path}.") if isinstance(value, dict) else ()
        else:
            yield path


def _unread(value: Any) -> set[str]:
    """The keys of the objects in `messages` and `answers` that hold a value and are not read."""
    opened = values.parsed(value) if isinstance(value, str) and value.lstrip()[:2] in {"[{", '{"'} else value
    if conversations.is_message(opened) or conversations.is_conversation(opened):
        return set(conversations.unread(opened))
    items = value if isinstance(value, list) else []
    return {key for item in items if isinstance(item, dict) for key in item if not is_empty(item[key])} - PARTS


def _names(theirs: Any) -> Names:
    if isinstance(theirs, dict):
        return {key: [str(name) for name in (t if isinstance(t, list) else [t])] for key, t in theirs.items()}
    if isinstance(theirs, list):
        return [str(name) for name in theirs]
    return str(theirs)


def _flat(theirs: Names) -> list[str]:
    """All names."""
    if isinstance(theirs, dict):
        return [name for names in theirs.values() for name in names]
    return theirs if isinstance(theirs, list) else [theirs]


def _label_names(labels: dict[Any, str]) -> dict[str, str]:
    """`ingest.labels` by canonical values. Raises ParamsError where two spellings of one value have two names."""
    names: dict[str, str] = {}
    for value, name in labels.items():
        if names.setdefault(canonical(value), name) != name:
            raise ParamsError(
                f"ingest.labels: {value!r} has two names, {names[canonical(value)]} and {name}", "remove one"
            )
    return names


def _joined(parts: dict[str, Any], column: str) -> str | None:
    """Texts of several columns, one below the other."""
    for name, part in parts.items():
        if not isinstance(part, str):
            raise BadRowError(f"{column}: no text", f"{name} is {shown(part)}")
    return "\n".join(parts.values()) or None


def _check(row: Row) -> None:
    """Raise BadRowError where the columns of a row do not fit together."""
    if not row.get("words", ["some"]):
        raise BadRowError("words: none")
    if "words" in row and "tags" in row and len(row["words"]) != len(row["tags"]):
        raise BadRowError("tags: not one for each word", f"{len(row['tags'])} for {len(row['words'])}")
    if ("question" in row) != ("context" in row):
        raise BadRowError("a question needs a context, and a context a question")
    if "answers" in row and "context" not in row:
        raise BadRowError("answers: there is no context to find them in")
    for answer in row.get("answers", []):
        start, text = answer["start"], answer["text"]
        if row["context"][start : start + len(text)] != text:
            raise BadRowError("answers: not in the context where it should be", f"{shown(text)} at character {start}")


def _image(value: Any, column: str) -> bytes:
    """A PNG file, from the bytes of an image, {bytes, path} of `datasets`, or an array (rows, columns[, 3]) uint8."""
    from PIL import Image

    from pretune.predictor.pixels import open_image

    value = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, bytes) and not value:
        raise BadRowError(f"{column}: an empty file")
    if not isinstance(value, bytes) and not (isinstance(value, np.ndarray) and value.dtype == np.uint8):
        raise BadRowError(f"{column}: no image", shown(value))
    try:
        picture = open_image(value) if isinstance(value, bytes) else Image.fromarray(value)
    except (OSError, ValueError, TypeError) as error:
        raise BadRowError(f"{column}: no image that can be opened", str(error)) from None
    png = io.BytesIO()
    picture.save(png, "PNG")
    return png.getvalue()


READERS: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(("text", "pair", "question", "context"), values.text),
    "target": values.target,
    **dict.fromkeys(("labels", "tags"), values.labels),
    "words": values.words,
    "score": values.number,
    **dict.fromkeys(("x", "y"), values.numbers),
    "answers": values.answers,
    "messages": conversations.messages,
    **dict.fromkeys(("chosen", "rejected"), conversations.answer),
    "tools": conversations.tools,
    "desirable": values.flag,
    "negatives": values.texts,
    "image": _image,
    "split": values.split,
    "group": values.group,
}
