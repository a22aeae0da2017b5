"""The columns of a table while their roles are looked for: which ones are free, and what was not sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretune.config.source_spec import SPLIT_ALIASES, SPLITS
from pretune.data.inspect import names
from pretune.data.inspect.columns import Column, by_key

MANY_CLASSES = 20  # different whole numbers from which a column may be a score
MOST_CLASSES = 1000
LONG = 25  # characters, on average, from which a column is more likely a text than a class


@dataclass
class Roles:
    """columns: {ours: theirs}, as in ingest.columns. why: {ours: reason}. doubts: (what, option that settles it).

    recognised: (layout, how many rows) of conversations, for which `columns` needs nothing; used: columns of theirs.
    """

    objective: str
    columns: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    recognised: list[tuple[str, str]] = field(default_factory=list)
    used: list[str] = field(default_factory=list)


class Table:
    """The columns that are not taken yet, and those that were named for ours."""

    def __init__(self, columns: Sequence[Column], named: dict[str, Any], rows: int) -> None:
        self.all, self.named, self.rows = list(columns), named, rows
        self.doubts: list[tuple[str, str]] = []
        self.why: dict[str, str] = {}
        taken = {str(name) for theirs in named.values() for name in flat(theirs)}
        self.free = [column for column in columns if column.name not in taken]

    def kind(self, *kinds: str) -> list[Column]:
        """The free columns of these kinds."""
        return [column for column in self.free if column.kind in kinds]

    def chosen(self, ours: str, find: Callable[[], Column | None], why: str) -> Any:
        """The column named for one of ours, else the one that is found; None if there is none."""
        if ours in self.named:
            self.why[ours] = "named with --column"
            return self.named[ours]
        column = find()
        if column is None:
            return None
        self.free.remove(column)
        self.why.setdefault(ours, why)
        return column.name

    def column(self, name: Any) -> Column | None:
        """The column of this name."""
        return next((column for column in self.all if column.name == str(name)), None)


def flat(theirs: Any) -> list[Any]:
    """All names in an entry of ingest.columns."""
    if isinstance(theirs, dict):
        return [name for value in theirs.values() for name in flat(value)]
    return theirs if isinstance(theirs, list) else [theirs]


def first(columns: list[Column]) -> Column | None:
    """The first column, None if there is none."""
    return columns[0] if columns else None


def text_and_pair(table: Table) -> tuple[Any, Any]:
    """The columns of the text and of the second text, None for those that there are not."""
    if "text" in table.named:
        return table.named["text"], table.named.get("pair")
    texts = table.kind("text")
    for first, second in names.PAIRS:
        pair = by_key(texts, (first,))[:1] + by_key(texts, (second,))[:1]
        if len(pair) == 2 and "pair" not in table.named:
            table.free = [column for column in table.free if column not in pair]
            table.why |= dict.fromkeys(("text", "pair"), "two texts, by their names")
            return pair[0].name, pair[1].name
    text = table.chosen("text", lambda: text_of(table), "the longest texts")
    column = table.column(text)
    if column is not None:
        others = [
            other
            for other in texts
            if other is not column and other.characters >= LONG and other.distinct > other.filled / 2
        ]
        for other in others:
            both = f"--column text={other.name}   (or text={other.name},{text}; or pair={other.name})"
            table.doubts.append((f"{text} is the text; {other.name} also holds texts", both))
    return text, table.named.get("pair")


def text_of(table: Table) -> Column | None:
    """The column of texts: by its name if that says so and the values are long enough, else the longest."""
    texts = [column for column in table.kind("text") if column.key not in names.IDENTIFIERS]
    longest = max(texts, key=lambda column: column.characters, default=None)
    if longest is None:
        return None
    by_name = [column for column in by_key(texts, names.TEXTS) if 3 * column.characters >= longest.characters]
    best = by_name[0] if by_name else longest
    return best if best.characters >= LONG or best.distinct > 0.5 * best.filled or by_name else None


def label_of(table: Table) -> Column | None:
    """The column of classes: by its name, else the one with the fewest values."""
    candidates = [column for column in table.kind("text", "number") if _is_class(column)]
    if named := by_key(candidates, names.LABELS):
        for other in named[1:]:
            if other.key in names.LABELS[:12]:
                table.doubts.append((f"label: {named[0].name}, or {other.name}?", f"--column label={other.name}"))
        table.why["label"] = "by its name"
        return named[0]
    numbered = [column for column in by_key(table.kind("number"), names.LABELS[:4]) if column.distinct > 1]
    if numbered:
        table.why["label"] = "by its name"
        return numbered[0]
    others = [
        column
        for column in candidates
        if column.key not in names.IDENTIFIERS | set(names.GROUPS) and not is_split(column)
    ]
    others = [column for column in others if not column.fractions and column.distinct <= MANY_CLASSES]
    others.sort(key=lambda column: column.distinct)
    for other in others[1:]:
        table.doubts.append((f"label: {others[0].name}, or {other.name}?", f"--column label={other.name}"))
    return first(others)


def _is_class(column: Column) -> bool:
    return 1 < column.distinct <= min(MOST_CLASSES, max(2, column.filled // 2)) and column.characters < 4 * LONG


def score_of(table: Table) -> Column | None:
    """The column of numbers to predict."""
    numbers = [column for column in table.kind("number") if column.key not in names.IDENTIFIERS and column.distinct > 2]
    named = by_key(numbers, names.SCORES)
    if named:
        table.why["score"] = "numbers, by its name"
        return named[0]
    fractions = [column for column in numbers if column.fractions] or [c for c in numbers if not c.is_unique]
    for other in fractions[1:]:
        table.doubts.append((f"score: {fractions[0].name}, or {other.name}?", f"--column score={other.name}"))
    return first(fractions)


def several(table: Table) -> Any:
    """Several classes of a text: a list, a text with commas, or a column of 0 and 1 for each; else None."""
    if "labels" in table.named:
        table.why["labels"] = "named with --column"
        return table.named["labels"]
    lists = [column for column in table.kind("words") if len(column.items) <= MOST_CLASSES]
    if lists:
        chosen = (by_key(lists, names.LABELS) or lists)[0]
        table.free.remove(chosen)
        table.why["labels"] = "a list of classes in each row"
        return chosen.name
    for column in by_key(table.kind("text"), ("labels", "tags", "categories", "topics", "genres", "emotions")):
        parts = {part.strip() for value in column.counts for part in value.split(",")}
        if any("," in value for value in column.counts) and len(parts) < max(3, len(column.counts)):
            table.free.remove(column)
            table.why["labels"] = "classes with commas between them"
            return column.name
    flags = [column for column in table.kind("number") if column.is_flag and column.filled == table.rows]
    others = [
        column
        for column in by_key(table.kind("text", "number"), names.LABELS[:8])
        if not column.is_flag and _is_class(column)
    ]
    if len(flags) < 2 or others:
        return None
    if len(flags) == 2:
        table.doubts.append(
            (f"labels: {flags[0].name} and {flags[1].name}, or one of them?", f"--column label={flags[0].name}")
        )
    table.free = [column for column in table.free if column not in flags]
    table.why["labels"] = "a column of 0 and 1 for each class"
    return [column.name for column in flags]


def is_split(column: Column) -> bool:
    """Whether the values are names of splits."""
    values = set(column.counts)
    return len(values) > 1 and values <= {*SPLITS, *SPLIT_ALIASES}
