"""The corpus for pretraining: every document's tokens, in shards of flat, memory-mapped arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretune.errors import DataError

Tokens = npt.NDArray[np.uint16 | np.uint32]


def write(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    """Write documents of token ids as one shard. Raises DataError where there is not one token."""
    arrays = [np.asarray(document, dtype=np.int64) for document in documents]
    if not sum(map(len, arrays)):
        raise nothing()
    kind = np.uint16 if max(int(each.max()) for each in arrays if len(each)) < 2**16 else np.uint32
    save(folder, 0, np.concatenate(arrays).astype(kind), np.cumsum([len(each) for each in arrays], dtype=np.int64))


def save(folder: Path, number: int, tokens: Tokens, ends: npt.NDArray[np.int64]) -> None:
    """Write shard `number`. It is there when its `ends` are: they come last."""
    for name, array in (("tokens", tokens), ("ends", ends)):
        partial = folder / f"{name}.partial"
        with partial.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / f"{name}-{number:05d}.npy")


def nothing() -> DataError:
    """The error where there is not one token."""
    return DataError("the documents hold no tokens", "add rows to ingest.source, then: pretune run")


class Sequences:
    """The corpus as rows of `length` tokens: whole documents side by side, longer ones in pieces.

    What is left of a row after that is padding, less than a hundredth of a corpus of many documents.
    `chosen` are the rows that there are, all by default. Raises DataError where there is none.
    """

    def __init__(self, folder: Path, length: int, padding: int, chosen: npt.NDArray[np.int64] | None = None) -> None:
        self._folder, self.length, self._padding = folder, length, padding
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("tokens-*.npy"))]
        if not self._shards:
            raise DataError(f"{folder} holds no tokens: the rows have no text", "pretune run prepare")
        self._offsets = np.cumsum([0, *map(len, self._shards)])
        ends = [np.load(path) for path in sorted(folder.glob("ends-*.npy"))]
        joined = np.concatenate([each + offset for each, offset in zip(ends, self._offsets[:-1], strict=True)])
        self._starts, self._lengths, self._bounds = pack_documents(joined, length)
        self._chosen = np.arange(len(self._bounds) - 1) if chosen is None else chosen

    @property
    def waste(self) -> float:
        """The share of all rows that is padding."""
        return 1 - float(self._offsets[-1]) / ((len(self._bounds) - 1) * self.length)

    def __len__(self) -> int:
        return len(self._chosen)

    def divide(self, validation_rows: int, seed: int) -> tuple[Sequences, Sequences | None]:
        """The rows to train on, and `validation_rows` drawn to be kept out of training; None for none."""
        if not validation_rows:
            return self, None
        parts = drawn(self._chosen, validation_rows, seed, ("sequences", "documents"))
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
                tokens[row, place : place + length] = self._piece(start, length)
                place += int(length)
                lengths.append(int(length))
            real[row, :place] = True
            if place < self.length:
                lengths.append(self.length - place)
        return tokens.reshape(-1), np.array(lengths), real.reshape(-1)

    def _piece(self, start: int, length: int) -> Tokens:
        """Tokens of one document, all in one shard."""
        shard = 0 if len(self._shards) == 1 else int(np.searchsorted(self._offsets, start, side="right")) - 1
        first = start - self._offsets[shard]
        return np.asarray(self._shards[shard][first : first + length])


def drawn(
    chosen: npt.NDArray[np.int64], validation_rows: int, seed: int, words: tuple[str, str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """`chosen` divided into those to train on and `validation_rows` kept out of training, each in their order.

    `words` are what the rows are and what they are made of. DataError where none would be left.
    """
    if validation_rows >= len(chosen):
        raise DataError(
            f"the corpus has {len(chosen)} {words[0]}, and pretrain.validation_rows keeps {validation_rows} out",
            f"add {words[1]}, or lower pretrain.validation_rows in params.yaml",
        )
    order = chosen[np.random.default_rng(seed).permutation(len(chosen))]
    return np.sort(order[validation_rows:]), np.sort(order[:validation_rows])


def pack_documents(
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
