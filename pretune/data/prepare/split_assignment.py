"""Assigns the rows of a snapshot to train, validation, test and the corpus, without leaks between them.

It takes three passes over the rows, and one more for a share of the corpus; only the texts of validation and test
rows are held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pretune.data import rows
from pretune.data.prepare.leaks import KINDS, Leaks
from pretune.data.prepare.splits import TEST, TRAIN, VALIDATION, SplitAssigner
from pretune.data.rows import Row, texts
from pretune.data.similarity.duplicates import content_key
from pretune.data.workers import chunked, in_order

if TYPE_CHECKING:
    from pretune.config.data import PrepareParams

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


class SplitAssignment:
    """The numbers of the rows in `train`, `validation`, `test` and `corpus`: (rows,) int64 each.

    `leaks` counts the rows that were left out of a split because they leak held-out rows: training rows that leak
    validation or test rows, and validation rows that leak test rows. `whole` is the corpus with what `corpus_share`
    leaves out of it.
    """

    def __init__(self, snapshot: Path, params: PrepareParams, seed: int) -> None:
        self._path = snapshot
        assigner = SplitAssigner(rows.iterate(snapshot), params, seed)
        self.leaks: dict[str, int] = {}
        self.test = assigner.select(TEST, params.test_rows)
        test_rows = list(rows.iterate(snapshot, self.test))
        find_leaks = Leaks(test_rows, params.similarity, 0)
        leaked, _ = self._leaked(assigner.split == VALIDATION, assigner.group, self.test, test_rows, find_leaks)
        self.validation = assigner.select(VALIDATION, params.validation_rows, without=leaked)
        held_out_rows = test_rows + list(rows.iterate(snapshot, self.validation))
        held_out = np.concatenate([self.test, self.validation])
        others = np.ones(len(assigner.split), dtype=bool)
        others[held_out] = False
        find_leaks = Leaks(held_out_rows, params.similarity, params.decontaminate)
        leaked, passages = self._leaked(others, assigner.group, held_out, held_out_rows, find_leaks)
        self.train = assigner.select(TRAIN, params.train_rows, without=leaked)
        if params.decontaminate and held_out_rows:
            self._count("passage", passages)
        self.whole = np.flatnonzero(others & ~leaked & ~passages)
        self.corpus = self.whole if params.corpus_share == 1 else self._share(params.corpus_share, seed)

    def rows_of(self, split: str) -> Iterator[Row]:
        """The rows of train, validation, test, corpus or whole, in the order of the snapshot."""
        return rows.iterate(self._path, getattr(self, split))

    def sample(self, split: str, limit: int) -> Iterator[Row]:
        """At most `limit` rows of a split, evenly spaced."""
        numbers = getattr(self, split)
        return rows.iterate(self._path, numbers[:: -(-len(numbers) // limit) or 1])

    def documents(self, part: str = "corpus") -> Iterator[str]:
        """The texts of the corpus one after the other; a context that consecutive questions share comes once."""
        return (text for _, text in self._documents(part))

    def documents_by_source(self) -> dict[str, int]:
        """{part of a mixture: its documents}, in their order in the corpus, where they lie part by part."""
        runs = [(name, sum(1 for _ in run)) for name, run in groupby(name for name, _ in self._documents("corpus"))]
        assert len(dict(runs)) == len(runs), "the parts of a mixture lie one after the other"
        return dict(runs)

    def _documents(self, part: str) -> Iterator[tuple[str, str]]:
        """The part of the mixture, "" without one, and the text of each document."""
        previous = ""
        for row in self.rows_of(part):
            for text in texts(row):
                if text != previous:
                    yield row.get("part", ""), text
                previous = text

    def _share(self, share: float, seed: int) -> Numbers:
        """The rows of the corpus whose texts have a hash below `share`: those of a larger share, and no others."""
        kept = np.fromiter((_position(row, seed) < share for row in self.rows_of("whole")), bool, len(self.whole))
        numbers: Numbers = self.whole[kept]
        return numbers

    def _leaked(
        self, among: Flags, group: npt.NDArray[np.uint64], held_out: Numbers, held_out_rows: list[Row], leaks: Leaks
    ) -> tuple[Flags, Flags]:
        """The rows that duplicate a held-out row or belong to its group, and others that share a passage: (rows,)."""
        if not held_out_rows:
            return np.zeros_like(among), np.zeros_like(among)
        exact, near, passages = self._apply(leaks, among)
        near &= ~exact
        same_group = among & ~exact & ~near & np.isin(group, group[held_out])
        for kind, flags in (("exact", exact), ("near", near), ("group", same_group)):
            self._count(kind, flags)
        leaked = exact | near | same_group
        return leaked, passages & ~leaked

    def _apply(self, find: Callable[[list[Row]], Flags], among: Flags) -> Flags:
        """The result of `find` for some rows, a chunk at a time; False for the others: (kinds, rows)."""
        flags = np.zeros((len(KINDS), len(among)), dtype=bool)
        parts = list(in_order(find, chunked(rows.iterate(self._path, np.flatnonzero(among)))))
        if parts:
            flags[:, among] = np.concatenate(parts, axis=1)
        return flags

    def _count(self, kind: str, flags: Flags) -> None:
        self.leaks[kind] = self.leaks.get(kind, 0) + int(flags.sum())


def _position(row: Row, seed: int) -> float:
    """Where the text of a row lies in [0, 1), by its hash: questions about one context lie together."""
    content = repr(texts(row)).encode("utf-8", "surrogatepass") if texts(row) else content_key(row)
    digest = hashlib.blake2b(b"%d corpus " % seed + content, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
