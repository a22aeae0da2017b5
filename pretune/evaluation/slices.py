"""What the rows of a data set have to be read for: the text in them, and ways of grouping them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row, last_answer

FEWEST = 20  # rows of a slice that says anything
MOST = 12  # slices of one kind: the largest
SCRIPTS = {"CJK": "chinese", "HIRAGANA": "japanese", "KATAKANA": "japanese"}


def text(row: Row) -> str:
    """All text that a model is asked about; empty for an image or numbers."""
    parts = [row[name] for name in ("question", "text", "pair", "context") if name in row]
    parts += [" ".join(row["words"])] if "words" in row else []
    parts += [turn["content"] for turn in row.get("messages", ())]
    return "\n".join(parts)


def asked(row: Row) -> str:
    """The same without the answer that a conversation ends with."""
    turns = row.get("messages", [])
    return text(row | {"messages": turns[: last_answer(turns)]})


def slices(rows: list[Row], kinds: Iterable[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """{name: (rows,)}: the rows that have something in common, by each of `kinds` that there is anything of."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for kind in kinds:
        values = np.array(_lengths(rows) if kind == "length" else [_value(row, kind) for row in rows])
        common = Counter(value for value in values.tolist() if value).most_common(MOST)
        large = sorted(value for value, number in common if number >= FEWEST)
        found |= {f"{kind} {value}": values == value for value in large if len(common) > 1}
    return found


def _value(row: Row, kind: str) -> str:
    if kind == "script":
        return script(text(row))
    if kind == "origin":
        return str(row.get("origin", "")).rpartition(":")[0]
    return str(row.get(kind, ""))


def _lengths(rows: list[Row]) -> list[str]:
    """The quarter of the lengths that each row's text is in, with its bounds in characters."""
    lengths = np.array([len(text(row)) for row in rows])
    if not lengths.any():
        return [""] * len(rows)
    bounds = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="nearest"))
    place = np.clip(np.searchsorted(bounds, lengths, side="left") - 1, 0, len(bounds) - 2)
    width = len(str(bounds[-1]))
    return [f"{bounds[i]:>{width}} to {bounds[i + 1]:>{width}} characters" for i in place]


def script(content: str) -> str:
    """The writing system of most letters, in Unicode's words (`latin`, `greek`, …); empty where there are none."""
    first = Counter(unicodedata.name(c, "?").split()[0] for c in content[:200] if c.isalpha())
    name = first.most_common(1)[0][0] if first else ""
    return SCRIPTS.get(name, name.lower())
