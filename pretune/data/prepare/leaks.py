"""Leaks: rows that repeat held-out rows, or share a passage with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row, texts
from pretune.data.similarity import minhash
from pretune.data.similarity.duplicates import compared, content_key, sketches_of, starts_of
from pretune.data.similarity.shingles import Hashes, RollingHash, normalize, shingles

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Normalize = Callable[[str], str]
BATCH = 2**16  # characters that are hashed together
BAND_MATCHES = 4  # held-out rows that are compared with a row by each band
KINDS = ("exact", "near", "passage")


class Leaks:
    """Finds rows that leak held-out rows; `similarity` as in DuplicateIndex, `length` as in Passages, 0 for none."""

    def __init__(self, held_out: Sequence[Row], similarity: float, length: int) -> None:
        self._duplicates = DuplicateIndex(held_out, similarity)
        self._passages = Passages(held_out, length) if length else None

    def __call__(self, rows: Sequence[Row]) -> Flags:
        """Which rows leak, for each of KINDS: (kinds, rows)."""
        normalize_once = cache(normalize)  # both indices look at most texts
        passages = self._passages.shared(rows, normalize_once) if self._passages else np.zeros(len(rows), dtype=bool)
        return np.stack([self._duplicates.exact(rows), self._duplicates.near(rows, normalize_once), passages])


class DuplicateIndex:
    """Finds rows with the same content as one of `rows`, or with texts each `similarity` or more alike."""

    def __init__(self, rows: Sequence[Row], similarity: float) -> None:
        self._keys = {content_key(row) for row in rows}
        self._similarity = similarity
        self._texts, self._sketches, bands = sketches_of([row for row in rows if compared(row)])
        self._starts = starts_of(self._texts)
        self._bands = [(hashes[order], order) for hashes in bands.T for order in [np.argsort(hashes, kind="stable")]]

    def exact(self, rows: Sequence[Row]) -> Flags:
        """Which rows have the same content as an indexed row: (rows,)."""
        return np.array([content_key(row) in self._keys for row in rows], dtype=bool)

    def near(self, rows: Sequence[Row], normalize: Normalize = normalize) -> Flags:
        """Which rows have nearly the same texts as an indexed row: (rows,)."""
        near = np.zeros(len(rows), dtype=bool)
        if self._similarity >= 1 or not len(self._sketches) or not len(rows):
            return near
        texts, sketches, bands = sketches_of(rows, normalize)
        pairs = {
            pair
            for number, (hashes, order) in enumerate(self._bands)
            for pair in _matches(bands[:, number], hashes, order)
        }
        if pairs:
            ours, indexed = np.array(sorted(pairs)).T
            similar = texts[ours] == self._texts[indexed]
            for part in range(int(texts.max())):
                chosen = np.flatnonzero(similar & (texts[ours] > part))
                first = sketches[starts_of(texts)[ours[chosen]] + part]
                second = self._sketches[self._starts[indexed[chosen]] + part]
                similar[chosen] = minhash.similarity(first, second) >= self._similarity
            near[ours[similar]] = True
        return near


def _matches(ours: Hashes, indexed: Hashes, order: Indices) -> list[tuple[int, int]]:
    """(row, indexed row) for equal hashes, with at most BAND_MATCHES indexed rows for each row."""
    first = np.searchsorted(indexed, ours)
    pairs = []
    for offset in range(BAND_MATCHES):
        position = np.minimum(first + offset, len(indexed) - 1)
        same = np.flatnonzero((indexed[position] == ours) & (first + offset < len(indexed)))
        pairs += list(zip(same.tolist(), order[position[same]].tolist(), strict=True))
    return pairs


class Passages:
    """Finds rows that share a passage of `length` characters with one of `rows`, or equal a shorter text of them.

    Only every `step`-th window of a text is looked up: a text that shares a passage shares one of these windows, since
    window + step - 1 = length. Where one is found, the passages around it are looked up.
    """

    def __init__(self, rows: Sequence[Row], length: int) -> None:
        self._length = length
        self._step = length // 4 + 1
        self._window = length - self._step + 1
        normalized = [normalize(text) for row in rows for text in texts(row)]
        self._short = {text for text in normalized if len(text) < length}
        long = [text for text in normalized if len(text) >= length]
        self._windows, self._passages = (HashSet(shingles(long, size)[0]) for size in (self._window, length))

    def shared(self, rows: Sequence[Row], normalize: Normalize = normalize) -> Flags:
        """Which rows contain such a passage: (rows,)."""
        flags = np.zeros(len(rows), dtype=bool)
        batch: list[tuple[int, str]] = []
        size = 0
        for number, row in enumerate(rows):
            for text in map(normalize, texts(row)):
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
        """Set the flags of the rows in a batch of (row, text) that contain a passage."""
        if not batch:
            return
        hashes = RollingHash([text for _, text in batch])
        last = hashes.ends - self._window  # the last window of each text, all of which are longer than a window
        begins = [np.arange(first, end + 1, self._step) for first, end in zip(hashes.starts, last, strict=True)]
        windows, owner = np.concatenate(begins), np.repeat(np.arange(len(batch)), [len(part) for part in begins])
        hit = self._windows.contains(hashes.at(windows, self._window))
        passages = windows[hit][:, None] - np.arange(self._step)  # the begins of all passages that contain the window
        owner = np.broadcast_to(owner[hit][:, None], passages.shape)
        inside = (passages >= hashes.starts[owner]) & (passages + self._length <= hashes.ends[owner])
        owner = owner[inside][self._passages.contains(hashes.at(passages[inside], self._length))]
        flags[[batch[index][0] for index in np.unique(owner)]] = True


class HashSet:
    """A set of hashes. A bit table of their first bits, with 8 or more bits per hash, rules out most others fast."""

    def __init__(self, hashes: Hashes) -> None:
        self._sorted = np.unique(hashes)
        bits = max(3, (8 * len(self._sorted)).bit_length())
        self._shift = np.uint64(64 - bits)
        table = np.zeros(2**bits, dtype=bool)
        table[self._sorted >> self._shift] = True
        self._table = np.packbits(table, bitorder="little")

    def contains(self, hashes: Hashes) -> Flags:
        """Which hashes are in the set: (hashes,)."""
        first = hashes >> self._shift
        bit = (first & np.uint64(7)).astype(np.uint8)
        flags: Flags = (self._table[first >> np.uint64(3)] >> bit & 1).astype(bool)
        candidates = hashes[flags]
        nearest = np.minimum(np.searchsorted(self._sorted, candidates), len(self._sorted) - 1)
        flags[flags] = self._sorted[nearest] == candidates
        return flags
