"""Rows that say what another one says: the same content, or nearly the same text. Memory does not grow with the text.

Fingerprints go to files as rows come in; when all are there, equal ones are brought together by sorting
a part of them at a time. A row gives way to the one before it in this order: rows that a source puts
into its test split, then its validation split, rows with a label, the others; each in the order read.
So rows that are added later never displace an earlier one of their kind.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.data.rows import SUPERVISION, Row
from pretune.data.similarity import minhash
from pretune.data.similarity.shingles import plain

Integers = npt.NDArray[np.int64]
KEY = 16  # bytes of a content hash
PART = 2**18  # fingerprints that are sorted at once
PAIRS = 2**14  # pairs that are compared at once
BANDS = [f"band{number}" for number in range(minhash.BANDS)]
NOT_CONTENT = {"label", "labels", "score", "tags", "answers", "y", "split", "group", "origin"}


def content_key(row: Row) -> bytes:
    """A hash of what the row says, labels aside: (KEY,) bytes."""
    content = [(name, value) for name, value in sorted(row.items()) if name not in NOT_CONTENT]
    return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=KEY).digest()


def text_of(row: Row) -> str:
    """The text that near duplicates are found by; of a question nothing, for many are asked about one context."""
    return "\n".join(row[name] for name in ("text", "pair", "target") if name in row)


def precedence(row: Row) -> int:
    """0 to 3: which of two equal rows gives way, the one with the higher number."""
    if row.get("split") in {"test", "validation"}:
        return ("test", "validation").index(row["split"])
    return 2 if any(name in row for name in SUPERVISION) else 3


def fingerprints(rows: Sequence[Row], *, near: bool) -> dict[str, bytes]:
    """What rows are compared by, by the file that it goes to; `near`: also what texts that are alike share."""
    found = {"keys": b"".join(map(content_key, rows)), "order": bytes(map(precedence, rows))}
    if near:
        texts = [text_of(row) for row in rows]
        sketches, bands = minhash.sketches([plain(text) for text in texts])
        found |= {"texts": bytes(bool(text) for text in texts), "sketches": sketches.tobytes()}
        found |= {name: np.ascontiguousarray(bands[:, number]).tobytes() for number, name in enumerate(BANDS)}
    return found


class Duplicates:
    """Finds rows to leave out: `add` the fingerprints of all in their order, then `find`. Files lie in `folder`."""

    def __init__(self, folder: Path, *, near: float | None) -> None:
        self._folder, self._near, self.count = folder, near, 0
        self._stack = ExitStack()
        names = fingerprints([], near=bool(near))
        self._files = {name: self._stack.enter_context((folder / name).open("wb")) for name in names}

    def close(self) -> None:
        """All are added."""
        self._stack.close()

    def add(self, prints: dict[str, bytes]) -> None:
        """Note the fingerprints of further rows."""
        self.count += len(prints["order"])
        for name, content in prints.items():
            self._files[name].write(content)

    def find(self) -> tuple[Integers, npt.NDArray[np.bool_]]:
        """For each row the one that it repeats, -1 for none, and whether it does so exactly: (rows,) each."""
        self.close()
        precedences = np.fromfile(self._folder / "order", np.uint8)
        of = self._exact(precedences)
        exact = of >= 0
        if self._near:
            text = np.fromfile(self._folder / "texts", np.bool_)
            later, earlier = self._similar(precedences, text & ~exact)
            for place in np.lexsort((earlier, precedences[earlier], later, precedences[later])).tolist():
                if of[later[place]] < 0 and of[earlier[place]] < 0:  # it gives way to one that is kept itself
                    of[later[place]] = earlier[place]
        return of, exact

    def _exact(self, precedences: npt.NDArray[np.uint8]) -> Integers:
        exact = np.full(self.count, -1)
        for rows, keys in _parts(self._folder / "keys", np.dtype("V16"), self.count):
            order = np.lexsort((rows, precedences[rows], keys["f1"], keys["f0"]))
            ordered, first = rows[order], _firsts(keys[order])
            repeats = first != np.arange(len(rows))
            exact[ordered[repeats]] = ordered[first[repeats]]
        return exact

    def _similar(self, precedences: npt.NDArray[np.uint8], wanted: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
        """Later and earlier rows that share a band and are similar: two of (pairs,)."""
        similar = np.empty(0, np.int64)  # later * count + earlier
        for name in BANDS:
            for rows, hashes in _parts(self._folder / name, np.dtype(np.uint64), self.count):
                chosen = np.flatnonzero(wanted[rows])
                order = chosen[np.lexsort((rows[chosen], precedences[rows[chosen]], hashes[chosen]))]
                ordered, first = rows[order], _firsts(hashes[order])
                later = np.flatnonzero(first != np.arange(len(order)))
                pairs = [ordered[later] * self.count + ordered[before] for before in (first[later], later - 1)]
                unknown = np.setdiff1d(np.concatenate(pairs), similar)
                similar = np.union1d(similar, unknown[self._alike(unknown)])
        later, earlier = np.divmod(similar, self.count)
        return later, earlier

    def _alike(self, pairs: Integers) -> npt.NDArray[np.bool_]:
        """Which of the pairs, later * count + earlier, have similar sketches."""
        alike = np.zeros(len(pairs), dtype=bool)
        with (self._folder / "sketches").open("rb", buffering=0) as file:
            for start in range(0, len(pairs), PAIRS):
                part = slice(start, start + PAIRS)
                first, second = (_sketches(file.fileno(), rows) for rows in np.divmod(pairs[part], self.count))
                alike[part] = minhash.similarity(first, second) >= (self._near or 1)
        return alike


def _sketches(file: int, rows: Integers) -> minhash.Sketch:
    """Those of some rows: (rows, BINS). They are read, not mapped: pages that are mapped count as memory."""
    size = minhash.BINS * np.dtype(np.uint16).itemsize
    found = b"".join([os.pread(file, size, row * size) for row in rows.tolist()])
    return np.frombuffer(found, np.uint16).reshape(-1, minhash.BINS)


def _parts(path: Path, kind: np.dtype[Any], count: int) -> Iterator[tuple[Integers, npt.NDArray[Any]]]:
    """Rows and fingerprints, all equal ones in one part of about PART: by what their first byte leaves over."""
    parts = -(-count // PART)
    fields = np.dtype([("f0", "u8"), ("f1", "u8")]) if kind.itemsize == KEY else kind
    for part in range(parts):
        rows, prints = [], []
        for start in range(0, count, PART):
            block = np.fromfile(path, fields, min(PART, count - start), offset=start * fields.itemsize)
            head = block["f0"] if fields.names else block
            chosen = np.flatnonzero(head % np.uint64(parts) == part)
            rows.append(chosen + start)
            prints.append(block[chosen])
        yield np.concatenate(rows), np.concatenate(prints)


def _firsts(ordered: npt.NDArray[Any]) -> Integers:
    """For each entry the first of those equal to it, which stand side by side: (entries,)."""
    if not len(ordered):
        return np.empty(0, np.int64)
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    return np.asarray(np.maximum.accumulate(np.where(begins, np.arange(len(ordered)), 0)))
