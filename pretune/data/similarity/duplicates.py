"""Duplicate rows, with the same content or nearly the same texts. Memory does not grow with the texts.

Nearly the same texts with different labels are no duplicates: the difference may be what the label is about.

Fingerprints are written to files as rows come in. Then equal ones are brought together by sorting one part of them at
a time. Of several duplicates one is kept: the first by `precedence`, then in the order of the source. So rows that are
appended to a source never displace earlier rows of the same precedence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row, is_supervised
from pretune.data.similarity import minhash
from pretune.data.similarity.minhash import Sketch
from pretune.data.similarity.shingles import Hashes, mix, normalize

Indices = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint8]
KEY = 16  # bytes of a content hash
PART = 2**18  # fingerprints that are sorted at once
PAIRS = 2**14  # pairs of sketches that are compared at once
BANDS = [f"band{number}" for number in range(minhash.BANDS)]
LABELS = ("label", "labels", "score", "tags", "answers", "desirable", "y")
NOT_CONTENT = {*LABELS, "split", "group", "part", "origin"}


def content_key(row: Row) -> bytes:
    """A hash of the row's content without labels: (KEY,) bytes."""
    content = [(name, value) for name, value in sorted(row.items()) if name not in NOT_CONTENT]
    return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=KEY).digest()


def compared(row: Row) -> list[str]:
    """The texts by which near duplicates are found: each has to be near. None for questions and conversations.

    Questions about one context, and conversations with one system message and the same tools, are always near.
    """
    if "messages" in row:
        return []
    return [row[name] for name in ("text", "pair", "target") if row.get(name)]


def label_key(row: Row) -> int:
    """A hash of the labels of a row, other than texts; 0 for none."""
    labels = [(name, row[name]) for name in LABELS if name in row]
    return int.from_bytes(hashlib.blake2b(repr(labels).encode(), digest_size=8).digest(), "big") if labels else 0


def sketches_of(rows: Sequence[Row], normalized: Callable[[str], str] = normalize) -> tuple[Counts, Sketch, Hashes]:
    """The number of compared texts of each row, their sketches one after the other, and the bands of each row.

    (rows,) uint8, (texts, BINS) uint16, (rows, BANDS) uint64. Rows share a band if all their texts do.
    """
    texts = [compared(row) for row in rows]
    counts = np.array([len(parts) for parts in texts], np.uint8)
    sketches, bands = minhash.sketches([normalized(text) for parts in texts for text in parts])
    joined = np.zeros((len(rows), minhash.BANDS), np.uint64)
    starts = starts_of(counts)
    for part in range(counts.max(initial=0)):
        has = counts > part
        hashes = bands[starts[has] + part]
        joined[has] = mix(joined[has] + hashes) if part else hashes
    return counts, sketches, joined


def starts_of(counts: Counts) -> Indices:
    """The index of the first text of each row: (rows,)."""
    ends = np.cumsum(counts, dtype=np.int64)
    return ends - counts


def precedence(row: Row) -> int:
    """0 to 3, for test rows, validation rows, labelled rows, others: of two duplicates, the lower one is kept."""
    if row.get("split") in {"test", "validation"}:
        return ("test", "validation").index(row["split"])
    return 2 if is_supervised(row) else 3


def fingerprints(rows: Sequence[Row], *, near: bool) -> dict[str, bytes]:
    """{file name: bytes} of what rows are compared by; `near` adds sketches and bands of their texts."""
    prints = {"keys": b"".join(map(content_key, rows)), "order": bytes(map(precedence, rows))}
    if near:
        counts, sketches, bands = sketches_of(rows)
        prints |= {"texts": counts.tobytes(), "sketches": sketches.tobytes()}
        prints["labels"] = np.array([label_key(row) for row in rows], np.uint64).tobytes()
        prints |= {name: np.ascontiguousarray(bands[:, number]).tobytes() for number, name in enumerate(BANDS)}
    return prints


class Duplicates:
    """Finds duplicates: `add` the fingerprints of all rows in order, then `find`. The files are in `folder`."""

    def __init__(self, folder: Path, *, near: float | None) -> None:
        self._folder, self._near, self.count = folder, near, 0
        self._stack = ExitStack()
        names = fingerprints([], near=bool(near))
        self._files = {name: self._stack.enter_context((folder / name).open("wb")) for name in names}

    def close(self) -> None:
        """Close the files: no more rows follow."""
        self._stack.close()

    def add(self, prints: dict[str, bytes]) -> None:
        """Append the fingerprints of further rows."""
        self.count += len(prints["order"])
        for name, content in prints.items():
            self._files[name].write(content)

    def find(self) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """The row that each row duplicates, -1 for none, and whether it is an exact duplicate: (rows,) each."""
        self.close()
        precedences = np.fromfile(self._folder / "order", np.uint8)
        original = self._exact(precedences)
        exact = original >= 0
        if self._near:
            later, earlier = self._similar(precedences, ~exact)
            for pair in np.lexsort((earlier, precedences[earlier], later, precedences[later])).tolist():
                if original[later[pair]] < 0 and original[earlier[pair]] < 0:  # only a row that is kept has duplicates
                    original[later[pair]] = earlier[pair]
        return original, exact

    def _exact(self, precedences: Counts) -> Indices:
        """The row of which each row is an exact duplicate, -1 for none: (rows,)."""
        original = np.full(self.count, -1)
        for rows, keys in _parts(self._folder / "keys", np.dtype("V16"), self.count):
            order = np.lexsort((rows, precedences[rows], keys["f1"], keys["f0"]))
            ordered, first = rows[order], _firsts(keys[order])
            repeats = first != np.arange(len(rows))
            original[ordered[repeats]] = ordered[first[repeats]]
        return original

    def _similar(self, precedences: Counts, among: npt.NDArray[np.bool_]) -> tuple[Indices, Indices]:
        """Later and earlier rows that share a band and are similar: (pairs,) each."""
        texts = np.fromfile(self._folder / "texts", np.uint8)
        labels = np.fromfile(self._folder / "labels", np.uint64)
        among, starts = among & (texts > 0), starts_of(texts)
        similar = np.empty(0, np.int64)  # later * count + earlier
        for name in BANDS:
            for rows, hashes in _parts(self._folder / name, np.dtype(np.uint64), self.count):
                chosen = np.flatnonzero(among[rows])
                order = chosen[np.lexsort((rows[chosen], precedences[rows[chosen]], hashes[chosen]))]
                ordered, first = rows[order], _firsts(hashes[order])
                later = np.flatnonzero(first != np.arange(len(order)))
                pairs = [ordered[later] * self.count + ordered[before] for before in (first[later], later - 1)]
                candidates = np.setdiff1d(np.concatenate(pairs), similar)
                first, second = np.divmod(candidates, self.count)
                same = (labels[first] == labels[second]) | (labels[first] == 0) | (labels[second] == 0)
                candidates = candidates[same & (texts[first] == texts[second])]
                similar = np.union1d(similar, candidates[self._are_similar(candidates, texts, starts)])
        later, earlier = np.divmod(similar, self.count)
        return later, earlier

    def _are_similar(self, pairs: Indices, texts: Counts, starts: Indices) -> npt.NDArray[np.bool_]:
        """Of which pairs, later * count + earlier, with as many texts, all have similar sketches: (pairs,)."""
        first, second = np.divmod(pairs, self.count)
        similar = np.ones(len(pairs), dtype=bool)
        with (self._folder / "sketches").open("rb", buffering=0) as file:
            for start in range(0, len(pairs), PAIRS):
                for part in range(int(texts.max(initial=0))):
                    chosen = start + np.flatnonzero((similar & (texts[first] > part))[start : start + PAIRS])
                    sketches = (_sketches(file.fileno(), starts[rows[chosen]] + part) for rows in (first, second))
                    similar[chosen] = minhash.similarity(*sketches) >= (self._near or 1)
        return similar


def _sketches(file: int, numbers: Indices) -> minhash.Sketch:
    """The sketches with these numbers: (numbers, BINS). They are not memory-mapped: mapped pages count as memory."""
    size = minhash.BINS * np.dtype(np.uint16).itemsize
    content = b"".join([os.pread(file, size, number * size) for number in numbers.tolist()])
    return np.frombuffer(content, np.uint16).reshape(-1, minhash.BINS)


def _parts(path: Path, dtype: np.dtype[Any], count: int) -> Iterator[tuple[Indices, npt.NDArray[Any]]]:
    """Rows and fingerprints in parts of about PART, by the fingerprint modulo: equal ones are in the same part."""
    parts = -(-count // PART)
    fields = np.dtype([("f0", "u8"), ("f1", "u8")]) if dtype.itemsize == KEY else dtype
    for part in range(parts):
        rows, prints = [], []
        for start in range(0, count, PART):
            block = np.fromfile(path, fields, min(PART, count - start), offset=start * fields.itemsize)
            head = block["f0"] if fields.names else block
            chosen = np.flatnonzero(head % np.uint64(parts) == part)
            rows.append(chosen + start)
            prints.append(block[chosen])
        yield np.concatenate(rows), np.concatenate(prints)


def _firsts(ordered: npt.NDArray[Any]) -> Indices:
    """The index of the first entry that equals each entry, where equal entries are adjacent: (entries,)."""
    if not len(ordered):
        return np.empty(0, np.int64)
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    return np.asarray(np.maximum.accumulate(np.where(begins, np.arange(len(ordered)), 0)))
