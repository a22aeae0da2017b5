"""Leaks: what a model could have seen of the rows that it is tested on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pretune.data.cleaning import minhash
from pretune.data.cleaning.duplicates import content_key, text_of
from pretune.data.cleaning.shingles import Hashes, plain, shingles
from pretune.data.rows import Row, texts

Flags = npt.NDArray[np.bool_]
BATCH = 2**16  # characters that are looked at together
BLOOM = 32  # places for each hash in the table that most other runs are dismissed by


KINDS = ("exact", "near", "passage")


class Leaks:
    """Tells of rows what they give away of those that are held out: `similarity` and `length` as in Twins, Passages."""

    def __init__(self, held_out: Sequence[Row], similarity: float, length: int) -> None:
        self._twins = Twins(held_out, similarity)
        self._passages = Passages(held_out, length) if length else None

    def __call__(self, rows: Sequence[Row]) -> Flags:
        """For each of KINDS which rows do: (kinds, rows)."""
        passages = self._passages.shared(rows) if self._passages else np.zeros(len(rows), dtype=bool)
        return np.stack([self._twins.exact(rows), self._twins.near(rows), passages])


class Twins:
    """Finds rows that repeat one of `rows`: the same content, nearly the same text."""

    def __init__(self, rows: Sequence[Row], similarity: float) -> None:
        self._keys = {content_key(row) for row in rows}
        found = [text for row in rows if (text := text_of(row))]
        self._sketches, bands = minhash.sketches(found)
        self._similarity = similarity
        self._bands = [(hashes[order], order) for hashes in bands.T for order in [np.argsort(hashes, kind="stable")]]

    def exact(self, rows: Sequence[Row]) -> Flags:
        """Which rows say the same: (rows,)."""
        return np.array([content_key(row) in self._keys for row in rows], dtype=bool)

    def near(self, rows: Sequence[Row]) -> Flags:
        """Which rows say nearly the same: (rows,)."""
        found = [text_of(row) for row in rows]
        near = np.zeros(len(rows), dtype=bool)
        if self._similarity >= 1 or not len(self._sketches) or not len(rows):
            return near
        sketches, bands = minhash.sketches(found)
        pairs = {
            pair
            for number, (hashes, order) in enumerate(self._bands)
            for pair in _matches(bands[:, number], hashes, order)
        }
        if pairs:
            ours, theirs = np.array(sorted(pairs)).T
            alike = minhash.similarity(sketches[ours], self._sketches[theirs]) >= self._similarity
            near[ours[alike]] = True
        return np.asarray(near & np.array([bool(text) for text in found]))


def _matches(ours: Hashes, theirs: Hashes, order: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(ours, theirs) of equal hashes, of each of ours the first few."""
    first = np.searchsorted(theirs, ours)
    found = []
    for offset in range(4):
        place = np.minimum(first + offset, len(theirs) - 1)
        same = np.flatnonzero((theirs[place] == ours) & (first + offset < len(theirs)))
        found += list(zip(same.tolist(), order[place[same]].tolist(), strict=True))
    return found


class Passages:
    """Finds rows that share `length` characters in a row with one of `rows`, or hold one that is shorter."""

    def __init__(self, rows: Sequence[Row], length: int) -> None:
        self._length = length
        found = [plain(text) for row in rows for text in texts(row)]
        self._short = {text for text in found if len(text) < length}
        self._hashes = np.unique(shingles([text for text in found if len(text) >= length], length)[0])
        self._bloom = np.zeros(1 << (BLOOM * len(self._hashes)).bit_length(), dtype=bool)
        self._bloom[self._places(self._hashes)] = True

    def shared(self, rows: Sequence[Row]) -> Flags:
        """Which rows hold such a passage: (rows,)."""
        flags = np.zeros(len(rows), dtype=bool)
        batch: list[tuple[int, str]] = []
        size = 0
        for number, row in enumerate(rows):
            for text in map(plain, texts(row)):
                flags[number] |= text in self._short
                if len(text) >= self._length:
                    batch.append((number, text))
                    size += len(text)
            if size >= BATCH:
                self._mark(batch, flags)
                batch, size = [], 0
        self._mark(batch, flags)
        return flags

    def _mark(self, batch: list[tuple[int, str]], flags: Flags) -> None:
        if not batch or not len(self._hashes):
            return
        hashes, owner = shingles([text for _, text in batch], self._length)
        maybe = np.flatnonzero(self._bloom[self._places(hashes)])
        place = np.minimum(np.searchsorted(self._hashes, hashes[maybe]), len(self._hashes) - 1)
        hit = maybe[self._hashes[place] == hashes[maybe]]
        numbers = np.array([number for number, _ in batch])
        flags[numbers[owner[hit]]] = True

    def _places(self, hashes: Hashes) -> Hashes:
        return hashes & np.uint64(len(self._bloom) - 1)
