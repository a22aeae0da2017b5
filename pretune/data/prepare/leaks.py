"""Leaks: what a model could have seen of the rows that it is tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row, texts
from pretune.data.similarity import minhash
from pretune.data.similarity.duplicates import content_key, text_of
from pretune.data.similarity.shingles import Hashes, Runs, plain, shingles

Flags = npt.NDArray[np.bool_]
Plain = Callable[[str], str]
BATCH = 2**16  # characters that are looked at together


KINDS = ("exact", "near", "passage")


class Leaks:
    """Finds rows that leak held-out ones; `similarity` as in DuplicateIndex, `length` as in Passages."""

    def __init__(self, held_out: Sequence[Row], similarity: float, length: int) -> None:
        self._twins = DuplicateIndex(held_out, similarity)
        self._passages = Passages(held_out, length) if length else None

    def __call__(self, rows: Sequence[Row]) -> Flags:
        """For each of KINDS which rows do: (kinds, rows)."""
        once = cache(plain)  # both look at most texts
        passages = self._passages.shared(rows, once) if self._passages else np.zeros(len(rows), dtype=bool)
        return np.stack([self._twins.exact(rows), self._twins.near(rows, once), passages])


class DuplicateIndex:
    """Finds rows that repeat one of `rows`: the same content, nearly the same text."""

    def __init__(self, rows: Sequence[Row], similarity: float) -> None:
        self._keys = {content_key(row) for row in rows}
        self._sketches, bands = minhash.sketches([plain(text) for row in rows if (text := text_of(row))])
        self._similarity = similarity
        self._bands = [(hashes[order], order) for hashes in bands.T for order in [np.argsort(hashes, kind="stable")]]

    def exact(self, rows: Sequence[Row]) -> Flags:
        """Which rows say the same: (rows,)."""
        return np.array([content_key(row) in self._keys for row in rows], dtype=bool)

    def near(self, rows: Sequence[Row], plain: Plain = plain) -> Flags:
        """Which rows say nearly the same: (rows,)."""
        found = [text_of(row) for row in rows]
        near = np.zeros(len(rows), dtype=bool)
        if self._similarity >= 1 or not len(self._sketches) or not len(rows):
            return near
        sketches, bands = minhash.sketches([plain(text) for text in found])
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
    """Finds rows that share `length` characters in a row with one of `rows`, or hold one that is shorter.

    Of a row only every `step`-th window of characters is looked up: who shares a passage shares one of
    these, for window + step - 1 = length. Where one does, what is around it is looked at.
    """

    def __init__(self, rows: Sequence[Row], length: int) -> None:
        self._length = length
        self._step = length // 4 + 1
        self._window = length - self._step + 1
        found = [plain(text) for row in rows for text in texts(row)]
        self._short = {text for text in found if len(text) < length}
        long = [text for text in found if len(text) >= length]
        self._windows, self._hashes = (HashSet(shingles(long, size)[0]) for size in (self._window, length))

    def shared(self, rows: Sequence[Row], plain: Plain = plain) -> Flags:
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
        if not batch:
            return
        runs = Runs([text for _, text in batch])
        last = runs.ends - self._window  # where the last window begins: texts are longer than one
        places = [np.arange(first, end + 1, self._step) for first, end in zip(runs.starts, last, strict=True)]
        windows, owner = np.concatenate(places), np.repeat(np.arange(len(batch)), [len(each) for each in places])
        hit = self._windows.among(runs.at(windows, self._window))
        around = windows[hit][:, None] - np.arange(self._step)  # where a passage begins that holds the window
        owner = np.broadcast_to(owner[hit][:, None], around.shape)
        inside = (around >= runs.starts[owner]) & (around + self._length <= runs.ends[owner])
        owner = owner[inside][self._hashes.among(runs.at(around[inside], self._length))]
        flags[[batch[place][0] for place in np.unique(owner)]] = True


class HashSet:
    """Hashes to be found again. A table of their first bits, 8 or more for each, tells most others at one look."""

    def __init__(self, hashes: Hashes) -> None:
        self._sorted = np.unique(hashes)
        bits = max(3, (8 * len(self._sorted)).bit_length())
        self._shift = np.uint64(64 - bits)
        table = np.zeros(2**bits, dtype=bool)
        table[self._sorted >> self._shift] = True
        self._table = np.packbits(table, bitorder="little")

    def among(self, hashes: Hashes) -> Flags:
        """Which of these are known: (hashes,)."""
        first = hashes >> self._shift
        eighth = (first & np.uint64(7)).astype(np.uint8)
        found: Flags = (self._table[first >> np.uint64(3)] >> eighth & 1).astype(bool)
        likely = hashes[found]
        found[found] = self._sorted[np.minimum(np.searchsorted(self._sorted, likely), len(self._sorted) - 1)] == likely
        return found
