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

    `batch(step, size)` is a pure function of (seed, step, size): rows are drawn without
    replacement within an epoch, and any step can be asked for without the ones before it.
    Raises DataError where the corpus does not fill one row.
    """

    def __init__(self, folder: Path, length: int, seed: int) -> None:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self.rows = tokens[: len(tokens) // length * length].reshape(-1, length)
        if not len(self.rows):
            raise DataError(
                f"the corpus has {len(tokens)} tokens, less than one sequence of {length}",
                "add documents, or lower pretrain.sequence_length in params.yaml",
            )
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, size: int) -> npt.NDArray[np.int64]:
        """Rows of one step: (size, length) int64."""
        first = step * size
        picked = [self._row_at(place) for place in range(first, first + size)]
        return np.asarray(self.rows[picked], dtype=np.int64)

    def _row_at(self, place: int) -> int:
        epoch, offset = divmod(place, len(self))
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(len(self))
        return int(self._order[offset])
