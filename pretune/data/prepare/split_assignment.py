"""Every row in its place: labelled rows for training, validation and test, and the corpus, without leaks between them.

Three passes over the rows, none of which holds their text but that of validation and test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pretune.data import rows
from pretune.data.prepare.leaks import KINDS, Leaks
from pretune.data.prepare.splits import TEST, TRAIN, VALIDATION, SplitAssigner
from pretune.data.rows import Row, texts
from pretune.data.workers import chunked, in_order

if TYPE_CHECKING:
    from pretune.config.data import PrepareParams

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


class SplitAssignment:
    """Which rows of a snapshot are `train`, `validation` and `test`, and which are in the `corpus`.

    `leaks` counts what was kept from where it would have been seen too early. A row that leaks into
    another split gives way: training rows to validation and test rows, validation rows to test rows.
    """

    def __init__(self, snapshot: Path, params: PrepareParams, seed: int) -> None:
        self._path = snapshot
        sides = SplitAssigner(rows.iterate(snapshot), params, seed)
        self.leaks: dict[str, int] = {}
        self.test = sides.chosen(TEST, params.test_rows)
        test_rows = list(rows.iterate(snapshot, self.test))
        leaks = Leaks(test_rows, params.similarity, 0)
        seen, _ = self._seen(sides.side == VALIDATION, sides.group, self.test, test_rows, leaks)
        self.validation = sides.chosen(VALIDATION, params.validation_rows, without=seen)
        held_out = test_rows + list(rows.iterate(snapshot, self.validation))
        kept = np.concatenate([self.test, self.validation])
        others = np.ones(len(sides.side), dtype=bool)
        others[kept] = False
        leaks = Leaks(held_out, params.similarity, params.decontaminate)
        seen, passage = self._seen(others, sides.group, kept, held_out, leaks)
        self.train = sides.chosen(TRAIN, params.train_rows, without=seen)
        if params.decontaminate and held_out:
            self._count("passage", passage)
        self.corpus = np.flatnonzero(others & ~seen & ~passage)

    def rows_of(self, part: str) -> Iterator[Row]:
        """The rows of train, validation, test or corpus, in the order of the snapshot."""
        return rows.iterate(self._path, getattr(self, part))

    def some(self, part: str, most: int) -> Iterator[Row]:
        """At most so many of them, spread evenly."""
        numbers = getattr(self, part)
        return rows.iterate(self._path, numbers[:: -(-len(numbers) // most) or 1])

    def _seen(
        self, among: Flags, group: npt.NDArray[np.uint64], kept: Numbers, held_out: list[Row], leaks: Leaks
    ) -> tuple[Flags, Flags]:
        """Which rows repeat one that is held out, or belong to its group; and which others share a passage: (rows,)."""
        if not held_out:
            return np.zeros_like(among), np.zeros_like(among)
        exact, near, passage = self._flagged(among, leaks)
        near &= ~exact
        same_group = among & ~exact & ~near & np.isin(group, group[kept])
        for kind, found in (("exact", exact), ("near", near), ("group", same_group)):
            self._count(kind, found)
        seen = exact | near | same_group
        return seen, passage & ~seen

    def _flagged(self, among: Flags, find: Callable[[list[Row]], Flags]) -> Flags:
        """`find` on those rows only, a chunk at a time: (kinds, rows)."""
        flags = np.zeros((len(KINDS), len(among)), dtype=bool)
        found = list(in_order(find, chunked(rows.iterate(self._path, np.flatnonzero(among)))))
        if found:
            flags[:, among] = np.concatenate(found, axis=1)
        return flags

    def _count(self, kind: str, flags: Flags) -> None:
        self.leaks[kind] = self.leaks.get(kind, 0) + int(flags.sum())

    def documents(self) -> Iterator[str]:
        """The texts of the corpus, one after the other; a context that many questions share once."""
        last = ""
        for row in self.rows_of("corpus"):
            for text in texts(row):
                if text != last:
                    yield text
                last = text
