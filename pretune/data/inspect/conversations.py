"""Conversations in a layout that `ingest` recognises by itself: which objective they serve, without ingest.columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pretune.data.ingest import layouts
from pretune.data.ingest.columns import INPUTS
from pretune.data.inspect import table as tables
from pretune.data.inspect.table import Roles
from pretune.errors import DataError

MOST = 0.5  # share of the records from which a file is one of conversations
OBJECTIVES = (  # what rows are for, by a column that all of them have; the first that exists is proposed
    ("chosen", ("dpo",)),
    ("desirable", ("kto", "instruction")),
    ("target", ("grpo",)),
    ("messages", ("instruction",)),
)


def find(
    records: Sequence[dict[str, Any]],
    named: Mapping[str, Any],
    objective: str | None,
    needed: Mapping[str, Collection[str]],
) -> Roles | None:
    """The objective of these records; None where they are none, or of another objective than the one that is asked.

    named: {ours: theirs} of --column. needed: {objective: its columns}. Raises DataError for preferences where no
    objective learns from them.
    """
    if INPUTS & named.keys():
        return None
    counts = Counter(str(layout) for record in records if (layout := layouts.columns_of(record)))
    if counts.total() <= MOST * len(records):
        return None
    found = {str(layout): layout for record in records if (layout := layouts.columns_of(record))}
    common = set.intersection(*(set(layout) | named.keys() for layout in found.values()))
    kind, objectives = next((kind, names) for kind, names in OBJECTIVES if kind in common)
    if objective is None:
        served = next((name for name in objectives if name in needed), None)
    else:
        serves = objective in objectives or {kind} <= set(needed[objective]) <= common
        served = objective if serves else None
    if served is None and (objective is None or (kind, objective) == ("chosen", "instruction")):
        raise DataError(
            f"the rows hold {', '.join(sorted(common))}: no objective that is proposed learns from them",
            "to learn from the chosen answers: --column user=prompt --column assistant=chosen",
        )
    if served is None:
        return None
    used = {str(name): None for layout in found.values() for theirs in layout.values() for name in tables.flat(theirs)}
    lines = [(_shown(found[key]), f"{count:,} rows, recognised by the names") for key, count in counts.most_common()]
    return Roles(served, dict(named), recognised=lines, used=list(used))


def _shown(layout: layouts.Columns) -> str:
    """A layout in a line: `messages: user instruction, input, assistant output`."""
    return "; ".join(f"{ours}: {', '.join(tables.flat(theirs))}" for ours, theirs in layout.items())
