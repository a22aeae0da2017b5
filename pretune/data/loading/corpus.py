"""The corpus for pretraining: the tokens of all documents, in shards of flat, memory-mapped arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretune.errors import DataError

Tokens = npt.NDArray[np.uint16 | np.uint32]
PARTS = "parts.json"


@dataclass(frozen=True)
class Part:
    """A part of a mixture: its documents, which lie one after the other, and the weight by which it is drawn."""

    documents: int
    weight: float


def write(folder: Path, documents: Sequence[Sequence[int]]) -> None:
    """Write documents of token ids as one shard. Raises DataError for no tokens at all."""
    arrays = [np.asarray(document, dtype=np.int64) for document in documents]
    if not sum(map(len, arrays)):
        raise no_tokens_error()
    tokens, ends = np.concatenate(arrays), np.cumsum([len(array) for array in arrays], dtype=np.int64)
    save(folder, 0, tokens.astype(np.uint16 if tokens.max() < 2**16 else np.uint32), ends)


def save(folder: Path, number: int, tokens: Tokens, ends: npt.NDArray[np.int64]) -> None:
    """Write shard `number`. `ends` is written last, so a shard with `ends` is complete."""
    for name, array in (("tokens", tokens), ("ends", ends)):
        partial = folder / f"{name}.partial"
        with partial.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / f"{name}-{number:05d}.npy")


def write_parts(folder: Path, parts: Mapping[str, Part]) -> None:
    """Write the parts of a mixture, in the order of their documents."""
    content = {name: asdict(part) for name, part in parts.items()}
    (folder / PARTS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def no_tokens_error() -> DataError:
    """The error for documents without tokens."""
    return DataError("the documents hold no tokens", "add rows to ingest.source, then: pretune run")


class Sequences:
    """The corpus as rows of `length` tokens: several whole documents in a row, longer documents in pieces.

    The rest of a row is padding, less than a hundredth of a corpus of many documents. `numbers` selects rows, all by
    default. No row holds documents of two parts of a mixture. parts: those of the corpus, {} without a mixture.
    Raises DataError for a corpus without tokens.
    """

    def __init__(self, folder: Path, length: int, padding: int, numbers: npt.NDArray[np.int64] | None = None) -> None:
        self._folder, self.length, self._padding = folder, length, padding
        self._shards = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("tokens-*.npy"))]
        if not self._shards:
            raise DataError(f"{folder} holds no tokens: the rows have no text", "pretune run prepare")
        self._offsets = np.cumsum([0, *map(len, self._shards)])
        ends = [np.load(path) for path in sorted(folder.glob("ends-*.npy"))]
        self._ends = np.concatenate([part + offset for part, offset in zip(ends, self._offsets[:-1], strict=True)])
        file = folder / PARTS
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.parts = {name: Part(**part) for name, part in found.items()}
        self._pack([part.documents for part in self.parts.values()] or [len(self._ends)])
        self._numbers = np.arange(len(self._bounds) - 1) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _pack(self, documents: Sequence[int]) -> None:
        """Pack the documents of each part into rows of their own; `documents`: of each part."""
        packed, self._part_bounds, row, begin, pieces = [], [0], 0, 0, 0
        for ends in np.split(self._ends, np.cumsum(documents)[:-1]):
            starts, lengths, bounds = pack_documents(ends - begin, self.length)
            packed.append((starts + begin, lengths, bounds[:-1] + pieces))
            row, begin, pieces = row + len(bounds) - 1, int(ends[-1]) if len(ends) else begin, pieces + len(starts)
            self._part_bounds.append(row)
        self._starts, self._lengths, bounds = (np.concatenate(arrays) for arrays in zip(*packed, strict=True))
        self._bounds = np.append(bounds, pieces)

    def by_part(self) -> dict[str, Sequences]:
        """The rows of each part of a mixture, which lie one after the other; {} without one."""
        cuts = np.searchsorted(self._numbers, self._part_bounds[1:-1])
        numbers = np.split(self._numbers, cuts)
        return {
            name: Sequences(self._folder, self.length, self._padding, part)
            for name, part in zip(self.parts, numbers, strict=bool(self.parts))
        }

    def divide(self, validation_rows: int, seed: int) -> tuple[Sequences, Sequences | None]:
        """Split off `validation_rows` random rows: (training rows, validation rows or None for 0)."""
        if not validation_rows:
            return self, None
        parts = hold_out(self._numbers, validation_rows, seed, ("sequences", "documents"))
        training, validation = (Sequences(self._folder, self.length, self._padding, part) for part in parts)
        return training, validation

    def rows(
        self, samples: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The tokens of these rows one after the other, the length of each piece, and a mask: False at padding.

        tokens, real: (samples * length,); lengths: (pieces,), where the padding of a row is a piece of its own.
        """
        first, last = self._bounds[self._numbers[samples]], self._bounds[self._numbers[samples] + 1]
        tokens = np.full((len(samples), self.length), self._padding, dtype=np.int64)
        real = np.zeros((len(samples), self.length), dtype=bool)
        lengths: list[int] = []
        for row, (begin, end) in enumerate(zip(first, last, strict=True)):
            used = 0
            for start, length in zip(self._starts[begin:end], self._lengths[begin:end], strict=True):
                tokens[row, used : used + length] = self._piece(start, length)
                used += int(length)
                lengths.append(int(length))
            real[row, :used] = True
            if used < self.length:
                lengths.append(self.length - used)
        return tokens.reshape(-1), np.array(lengths), real.reshape(-1)

    def pieces(self, sample: int) -> list[tuple[int, Tokens]]:
        """The pieces of one row: the number of the document, and the tokens, (tokens,)."""
        begin, end = self._bounds[self._numbers[sample]], self._bounds[self._numbers[sample] + 1]
        starts, lengths = self._starts[begin:end], self._lengths[begin:end]
        numbers = np.searchsorted(self._ends, starts, side="right").tolist()
        return list(zip(numbers, map(self._piece, starts, lengths), strict=True))

    def document(self, number: int) -> Tokens:
        """All tokens of a document: (tokens,)."""
        start = int(self._ends[number - 1]) if number else 0
        return self._piece(start, int(self._ends[number]) - start)

    def _piece(self, start: int, length: int) -> Tokens:
        """Tokens of one document, which never crosses shards."""
        shard = 0 if len(self._shards) == 1 else int(np.searchsorted(self._offsets, start, side="right")) - 1
        first = start - self._offsets[shard]
        return np.asarray(self._shards[shard][first : first + length])


def hold_out(
    numbers: npt.NDArray[np.int64], validation_rows: int, seed: int, words: tuple[str, str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide row numbers at random into those for training and `validation_rows` for validation, each ascending.

    `words`, for the message: what a row is called and what to add for more rows. Raises DataError where no row would
    be left to train on.
    """
    if validation_rows >= len(numbers):
        raise DataError(
            f"the corpus has {len(numbers)} {words[0]}, and pretrain.validation_rows holds out {validation_rows}",
            f"add {words[1]}, or lower pretrain.validation_rows in params.yaml",
        )
    order = numbers[np.random.default_rng(seed).permutation(len(numbers))]
    return np.sort(order[validation_rows:]), np.sort(order[:validation_rows])


def pack_documents(
    ends: npt.NDArray[np.int64], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pack documents into rows of `length` tokens by best-fit decreasing (Ding et al. 2024), which cuts few documents.

    The longest piece comes first, and each goes to the row with the least room that fits it. `ends`: (documents,).
    Returns the start and the length of each piece, (pieces,), row by row, and the bounds of the rows in them,
    (rows + 1,).
    """
    begins = np.concatenate([[0], ends])[:-1]
    sizes = ends - begins
    cuts = -(-sizes // length)
    index = np.arange(cuts.sum()) - np.repeat(np.cumsum(cuts) - cuts, cuts)  # of each piece within its document
    starts = np.repeat(begins, cuts) + index * length
    lengths = np.minimum(length, np.repeat(ends, cuts) - starts)
    row_of = np.empty(len(starts), dtype=np.int64)
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by the tokens that still fit
    rows, rooms = 0, 0  # bit n of `rooms`: some row has room for exactly n tokens
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
