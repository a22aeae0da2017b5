"""Texts of rows, and slices of a data set: rows that have a label, length, script, group or origin in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pretune.data.languages import main_script
from pretune.data.rows import Row, last_answer, texts

Mask = npt.NDArray[np.bool_]  # (rows,)
FEWEST = 20  # rows of a slice
MOST = 12  # slices by one criterion: the largest


def full_text(row: Row) -> str:
    """All text of a row but a target that is to be written; empty for an image or numbers."""
    question = [row["question"]] if "question" in row else []
    return "\n".join([*question, *texts({name: value for name, value in row.items() if name != "target"})])


def input_text(row: Row) -> str:
    """The text that a model reads: `full_text` without the last answer of a conversation, and the chosen one of two."""
    if "chosen" in row:
        return full_text({"messages": row["messages"]})
    messages = row.get("messages", [])
    return full_text(row | {"messages": messages[: last_answer(messages)]} if messages else row)


def slice_masks(rows: list[Row], criteria: Iterable[str]) -> dict[str, Mask]:
    """{"CRITERION VALUE": mask}: a slice for each common value of each criterion that tells rows apart."""
    masks: dict[str, Mask] = {}
    for criterion in criteria:
        values = np.array(_lengths(rows) if criterion == "length" else [_value(row, criterion) for row in rows])
        common = Counter(value for value in values.tolist() if value).most_common(MOST)
        large = sorted(value for value, number in common if number >= FEWEST)
        masks |= {f"{criterion} {value}": values == value for value in large if len(common) > 1}
    return masks


def _value(row: Row, criterion: str) -> str:
    if criterion == "script":
        return main_script(full_text(row))
    if criterion == "origin":
        return str(row.get("origin", "")).rpartition(":")[0]
    return str(row.get(criterion, ""))


def _lengths(rows: list[Row]) -> list[str]:
    """For each row the quarter of all lengths that its text falls into, as bounds in characters."""
    lengths = np.array([len(full_text(row)) for row in rows])
    if not lengths.any():
        return [""] * len(rows)
    bounds = np.unique(np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="nearest"))
    quarters = np.clip(np.searchsorted(bounds, lengths, side="left") - 1, 0, len(bounds) - 2)
    width = len(str(bounds[-1]))
    return [f"{bounds[i]:>{width}} to {bounds[i + 1]:>{width}} characters" for i in quarters]
