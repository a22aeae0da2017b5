"""What the columns of a table hold, by their values; names are looked at where values leave several choices."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pretune.data.ingest import conversations
from pretune.data.ingest.values import canonical, is_empty, parsed

NO_VALUE = {"na", "n/a", "nan", "null", "none", "?", "-", "nil"}
KEPT = 5000  # records of which columns are profiled
DEPTH = 3  # of nested objects
KINDS = ("text", "number", "words", "turns", "answers", "image", "numbers", "other")


@dataclass
class Column:
    """A column of the source.

    kind: text, number, words (a list), turns (a conversation), answers, image, numbers (a list) or other.
    counts: of the values in one spelling, where they are texts or numbers. characters: mean length of texts.
    fractions: whether some number is no whole one. missing: words that stand for no value among numbers.
    """

    name: str
    kind: str
    filled: int
    counts: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    lengths: tuple[int, ...] = ()
    characters: float = 0.0
    fractions: bool = False
    missing: tuple[str, ...] = ()

    @property
    def distinct(self) -> int:
        """The number of different values."""
        return len(self.counts)

    @property
    def is_flag(self) -> bool:
        """Whether the values are 0 and 1, or false and true."""
        return self.kind == "number" and set(self.counts) <= {"0", "1", "true", "false"}

    @property
    def key(self) -> str:
        """The name without case and with one kind of separator; the last part of a path."""
        return self.name.rsplit(".", 1)[-1].strip().lower().replace(" ", "_").replace("-", "_")

    @property
    def is_unique(self) -> bool:
        """Whether no value occurs twice, among several."""
        return self.filled > 3 and self.distinct == self.filled


def profile(records: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns of these records, in their order; objects that are no answers are opened: `translation.en`."""
    step = 1 + len(records) // KEPT
    values: dict[str, list[Any]] = {}
    for number, record in enumerate(records):
        for name, value in _flat(record):
            if not is_nothing(value):
                values.setdefault(name, []).append((number, value))
    return [_column(name, [value for _, value in found], step) for name, found in values.items()]


def is_nothing(value: Any) -> bool:
    """Whether there is no value."""
    return not isinstance(value, list | dict | bytes | np.ndarray) and is_empty(value)


def _flat(record: dict[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        special = isinstance(value, dict) and (
            {"bytes", "path"} & value.keys()
            or {"answer_start", "text"} <= value.keys()
            or {"start", "text"} <= value.keys()
        )
        if isinstance(value, dict) and not special and depth < DEPTH:
            yield from _flat(value, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", value


def _column(name: str, values: list[Any], step: int) -> Column:
    """The profile of a column: all values are counted, every `step`-th one is looked at."""
    looked = [_opened(value) for value in values[::step]]
    kinds = Counter(_kind(value) for value in looked)
    kind = kinds.most_common(1)[0][0]
    if kind in {"text", "number"}:
        return _scalar(name, values)
    column = Column(name, kind, len(values))
    if kind == "words":
        lists = [value for value in looked if isinstance(value, list)]
        column.items = Counter(str(item) for value in lists for item in value)
        column.lengths = tuple(len(value) for value in lists)
        column.counts = Counter(json.dumps(value, ensure_ascii=False, default=str) for value in lists)
    return column


def _scalar(name: str, values: list[Any]) -> Column:
    """A column of texts or of numbers; words that stand for no value may be among the numbers."""
    counts = Counter(
        canonical(value) if isinstance(value, bool | int | float | str) else str(value) for value in values
    )
    words = {value: count for value, count in counts.items() if not _is_number(value)}
    missing = tuple(sorted(word for word in words if word.lower() in NO_VALUE))
    texts = set(words) - {"true", "false"}
    if texts <= set(missing) and (len(texts) < len(counts)):
        real = Counter({value: count for value, count in counts.items() if value not in missing})
        fractions = any(not _is_whole(value) for value in real if value not in {"true", "false"})
        return Column(name, "number", sum(real.values()), real, fractions=fractions, missing=missing)
    characters = sum(len(value) * count for value, count in counts.items()) / len(values)
    return Column(name, "text", len(values), counts, characters=characters)


def _opened(value: Any) -> Any:
    """The list or object that a text holds; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        inner = parsed(value)
        return value if inner is None else inner
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.ndim > 1):
        return "image"
    if isinstance(value, dict):
        if {"bytes", "path"} & value.keys():
            return "image"
        return "answers" if {"text"} < value.keys() else "other"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return _kind_of_list(value)
    if isinstance(value, bool | int | float):
        return "number"
    return (
        "number"
        if isinstance(value, str) and _is_number(value.strip())
        else "text"
        if isinstance(value, str)
        else "other"
    )


def _kind_of_list(value: list[Any]) -> str:
    dicts = [item for item in value if isinstance(item, dict)]
    if dicts and len(dicts) == len(value):
        if conversations.is_message(dicts[0]):
            return "turns"
        return "answers" if "text" in dicts[0] else "other"
    if value and all(isinstance(item, float) for item in value):
        return "numbers"
    return "words" if all(isinstance(item, str | int) for item in value) else "other"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text and text.lower() not in {"nan", "inf", "-inf", "infinity", "-infinity"}


def _is_whole(text: str) -> bool:
    return text.lstrip("-").isdigit()


def by_key(columns: Iterable[Column], keys: Sequence[str]) -> list[Column]:
    """The columns whose name is one of `keys`, in the order of the keys."""
    found = {key: [column for column in columns if column.key == key] for key in keys}
    return [column for key in keys for column in found[key]]
