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
    """The corpus cut into rows of `length` tokens; the last, shorter one is left out.

    `chosen` are the rows that there are, all by default. Raises DataError where there is none.
    """

    def __init__(self, folder: Path, length: int, chosen: npt.NDArray[np.int64] | None = None) -> None:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self._folder, self._ends = folder, np.load(folder / "ends.npy")
        self._tokens = tokens[: len(tokens) // length * length].reshape(-1, length)
        self._chosen = np.arange(len(self._tokens)) if chosen is None else chosen
        self.length = length
        if not len(self):
            raise DataError(
                f"the corpus has {len(tokens)} tokens, less than one sequence of {length}",
                "add documents, or lower pretrain.sequence_length in params.yaml",
            )

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
        training, validation = np.sort(drawn[validation_rows:]), np.sort(drawn[:validation_rows])
        return Sequences(self._folder, self.length, training), Sequences(self._folder, self.length, validation)

    def rows(self, samples: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The tokens of these rows one after the other, (tokens,), and the length of each document's part in them."""
        samples = self._chosen[samples]
        tokens = self._tokens[samples].astype(np.int64).reshape(-1)
        places = (samples[:, None] * self.length + np.arange(self.length)).reshape(-1)
        document = np.searchsorted(self._ends, places, side="right")
        begins = np.flatnonzero(np.diff(document, prepend=-1) | (np.arange(len(places)) % self.length == 0))
        return tokens, np.diff(begins, append=len(places))
