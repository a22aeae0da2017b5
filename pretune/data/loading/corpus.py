"""The corpus for pretraining: the tokens of all documents, in shards of flat, memory-mapped arrays.

The shards may lie in storage (data/storage.py); `ends` is always here. Then no row holds documents of two shards, and
few shards are read at a time: those of the rows that the training order brings next (`Sequences.blocks`).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretune.data import storage
from pretune.errors import DataError

Tokens = npt.NDArray[np.uint16 | np.uint32]
PARTS = "parts.json"
OPEN = 64  # shards in storage that are open at a time; their copies stay on disk as long
SOME = 16  # shards in storage that validation rows are drawn from


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


def save(folder: Path, number: int, tokens: Tokens, ends: npt.NDArray[np.int64], address: str = "") -> None:
    """Write shard `number`, with an address its tokens to the storage there.

    `ends` is written last, so a shard with `ends` is complete.
    """
    for name, array in (("tokens", tokens), ("ends", ends)):
        partial, path = folder / f"{name}.partial", folder / f"{name}-{number:05d}.npy"
        with partial.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        if address and name == "tokens":
            storage.store(path, address, tokens=len(tokens))


class Shards:
    """The tokens of the shards of a folder, one after the other. Shards in storage are opened when they are read."""

    def __init__(self, folder: Path) -> None:
        self._paths = storage.paths(folder, "tokens-*.npy")
        self.stored = any(map(storage.facts, self._paths))
        sizes = [storage.facts(path).get("tokens") or len(_open(path)) for path in self._paths]
        self.offsets = np.cumsum([0, *sizes])
        self._open = lru_cache(OPEN)(_open) if self.stored else cache(_open)

    def __len__(self) -> int:
        return len(self._paths)

    def tokens(self, start: int, length: int) -> Tokens:
        """`length` tokens from `start` on, which are all in one shard: (length,)."""
        number = int(np.searchsorted(self.offsets, start, side="right")) - 1
        first = start - self.offsets[number]
        return np.asarray(self._open(self._paths[number])[first : first + length])


def _open(path: Path) -> Tokens:
    """The tokens of a shard, memory-mapped."""
    return storage.read(path, partial(np.load, mmap_mode="r"))


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
    default. No row holds documents of two parts of a mixture, nor of two shards in storage. parts: those of the corpus,
    {} without a mixture.
    Raises DataError for a corpus without tokens.
    """

    def __init__(self, folder: Path, length: int, padding: int, numbers: npt.NDArray[np.int64] | None = None) -> None:
        self._folder, self.length, self._padding = folder, length, padding
        self._shards = Shards(folder)
        if not len(self._shards):
            raise DataError(f"{folder} holds no tokens: the rows have no text", "pretune run prepare")
        ends = [np.load(path) for path in sorted(folder.glob("ends-*.npy"))]
        offsets = self._shards.offsets[:-1]
        self._ends = np.concatenate([part + offset for part, offset in zip(ends, offsets, strict=True)])
        file = folder / PARTS
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.parts = {name: Part(**part) for name, part in found.items()}
        parts = np.cumsum([part.documents for part in self.parts.values()] or [len(self._ends)])
        cuts = np.cumsum([len(part) for part in ends]) if self._shards.stored else parts
        groups = np.union1d(parts, cuts)
        bounds = self._pack(groups)
        self._part_bounds = bounds[np.searchsorted(groups, [0, *parts], side="right")]
        self._blocks = bounds if self._shards.stored else self._part_bounds
        self._numbers = np.arange(bounds[-1]) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def _pack(self, groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pack the documents up to each of `groups` into rows of their own; return the bounds of these in the rows."""
        packed, rows, begin, pieces = [], [0], 0, 0
        for ends in np.split(self._ends, groups[:-1]):
            starts, lengths, bounds = pack_documents(ends - begin, self.length)
            packed.append((starts + begin, lengths, bounds[:-1] + pieces))
            rows.append(rows[-1] + len(bounds) - 1)
            begin, pieces = int(ends[-1]) if len(ends) else begin, pieces + len(starts)
        self._starts, self._lengths, first = (np.concatenate(arrays) for arrays in zip(*packed, strict=True))
        self._bounds = np.append(first, pieces)
        return np.array(rows)

    def only(self, numbers: npt.NDArray[np.int64]) -> Sequences:
        """The rows with these ascending numbers."""
        some = copy.copy(self)
        some._numbers = numbers
        return some

    def by_part(self) -> dict[str, Sequences]:
        """The rows of each part of a mixture, which lie one after the other; {} without one."""
        parts = np.split(self._numbers, np.searchsorted(self._numbers, self._part_bounds[1:-1]))
        return {name: self.only(numbers) for name, numbers in zip(self.parts, parts, strict=bool(self.parts))}

    def blocks(self) -> list[int]:
        """The number of rows in each shard in storage, in order; [] where the corpus lies on this disk."""
        return np.diff(np.searchsorted(self._numbers, self._blocks)).tolist() if self._shards.stored else []

    def divide(self, validation_rows: int, seed: int) -> tuple[Sequences, Sequences | None]:
        """Split off `validation_rows` random rows: (training rows, validation rows or None for 0).

        Of shards in storage, those for validation are of some sixteen shards, for they are read again and again.
        """
        if not validation_rows:
            return self, None
        words = ("sequences", "documents")
        if len(among := self._of_some_shards(2 * validation_rows, seed)) == len(self._numbers):
            training, validation = hold_out(self._numbers, validation_rows, seed, words)
        else:
            validation = hold_out(among, validation_rows, seed, words)[1]
            training = np.setdiff1d(self._numbers, validation, assume_unique=True)
        return self.only(training), self.only(validation)

    def _of_some_shards(self, least: int, seed: int) -> npt.NDArray[np.int64]:
        """The rows of SOME random shards in storage, of more where these have less than `least` rows."""
        shards = np.split(self._numbers, np.cumsum(self.blocks())[:-1]) if self._shards.stored else [self._numbers]
        order = np.random.default_rng([seed, len(shards)]).permutation(len(shards))
        sizes = np.cumsum([len(shards[number]) for number in order])
        count = max(SOME, int(np.searchsorted(sizes, least)) + 1)
        return np.sort(np.concatenate([shards[number] for number in order[:count]]))

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
                tokens[row, used : used + length] = self._shards.tokens(start, length)
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
        return list(zip(numbers, map(self._shards.tokens, starts, lengths), strict=True))

    def document(self, number: int) -> Tokens:
        """All tokens of a document: (tokens,)."""
        start = int(self._ends[number - 1]) if number else 0
        return self._shards.tokens(start, int(self._ends[number]) - start)


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
