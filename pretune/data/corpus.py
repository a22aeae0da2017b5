"""The corpus for pretraining: every document's tokens in one flat, memory-mapped array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretune.errors import DataError


def write(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    """Write `tokens.npy` (tokens,) uint16 and `ends.npy` (documents,) int64: where each one ends.

    Raises DataError where there is not one token.
    """
    tokens = np.fromiter((token for document in documents for token in document), dtype=np.uint16)
    if not len(tokens):
        raise DataError("the documents hold no tokens", "add rows to ingest.source, then: pretune run")
    np.save(folder / "tokens.npy", tokens)
    np.save(folder / "ends.npy", np.cumsum([len(document) for document in documents], dtype=np.int64))


class Sequences:
    """The corpus as rows of `length` tokens: whole documents side by side, longer ones in pieces.

    What is left of a row after that is padding, less than a hundredth of a corpus of many documents.
    `chosen` are the rows that there are, all by default. Raises DataError where there is none.
    """

    def __init__(self, folder: Path, length: int, padding: int, chosen: npt.NDArray[np.int64] | None = None) -> None:
        self._folder, self.length, self._padding = folder, length, padding
        self._tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self._starts, self._lengths, self._bounds = fit(np.load(folder / "ends.npy"), length)
        self._chosen = np.arange(len(self._bounds) - 1) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def divide(self, validation_rows: int, seed: int) -> tuple[Sequences, Sequences | None]:
        """The rows to train on, and `validation_rows` drawn to be kept out of training; None for none."""
        if not validation_rows:
            return self, None
        if validation_rows >= len(self):
            raise DataError(
                f"the corpus has {len(self)} sequences, and pretrain.validation_rows keeps {validation_rows} out",
                "add documents, or lower pretrain.validation_rows in params.yaml",
            )
        drawn = self._chosen[np.random.default_rng(seed).permutation(len(self))]
        parts = np.sort(drawn[validation_rows:]), np.sort(drawn[:validation_rows])
        training, validation = (Sequences(self._folder, self.length, self._padding, part) for part in parts)
        return training, validation

    def rows(
        self, samples: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The tokens of these rows one after the other, the length of each piece in them, and which are no padding.

        tokens, real: (samples * length,); lengths: (pieces,), padding being a piece of its own.
        """
        first, last = self._bounds[self._chosen[samples]], self._bounds[self._chosen[samples] + 1]
        tokens = np.full((len(samples), self.length), self._padding, dtype=np.int64)
        real = np.zeros((len(samples), self.length), dtype=bool)
        lengths: list[int] = []
        for row, (begin, end) in enumerate(zip(first, last, strict=True)):
            place = 0
            for start, length in zip(self._starts[begin:end], self._lengths[begin:end], strict=True):
                tokens[row, place : place + length] = self._tokens[start : start + length]
                place += int(length)
                lengths.append(int(length))
            real[row, :place] = True
            if place < self.length:
                lengths.append(self.length - place)
        return tokens.reshape(-1), np.array(lengths), real.reshape(-1)


def fit(
    ends: npt.NDArray[np.int64], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Fit documents into rows of `length` tokens, the longest first, each where it leaves least room.

    Best-fit decreasing (Ding et al. 2024): few documents are cut. Returns where each piece starts
    and its length, (pieces,), row by row, and the first piece of each row and the end, (rows + 1,).
    """
    begins = np.concatenate([[0], ends[:-1]])
    sizes = ends - begins
    cuts = -(-sizes // length)
    number = np.arange(cuts.sum()) - np.repeat(np.cumsum(cuts) - cuts, cuts)
    starts = np.repeat(begins, cuts) + number * length
    lengths = np.minimum(length, np.repeat(ends, cuts) - starts)
    row_of = np.empty(len(starts), dtype=np.int64)
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by the room left in them
    rows, rooms = 0, 0  # bit n of `rooms`: some row has room for n
    for piece in np.argsort(-lengths, kind="stable").tolist():
        size = int(lengths[piece])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms &= ~(1 << room)
        else:
            row, room, rows = rows, length, rows + 1
        row_of[piece] = row
        if room > size:
            open_rows[room - size].append(row)
            rooms |= 1 << (room - size)
    order = np.argsort(row_of, kind="stable")
    return starts[order], lengths[order], np.searchsorted(row_of[order], np.arange(rows + 1))
