"""Hashes of character n-grams, by which near duplicates and leaks are found: they work for any script."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
MAX_CHARACTERS = 2**20  # of a text; the rest is not compared
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_FACTOR, -1, 2**64)


def normalize(text: str) -> str:
    """The text for comparison: in lower case, with one space for any white space."""
    return " ".join(text[:MAX_CHARACTERS].lower().split())


class RollingHash:
    """Normalized texts one after the other, and the hash of any n-gram in them.

    A rolling polynomial (Karp and Rabin 1987) over all texts at once, then mixed. Text n begins at
    starts[n] and ends before ends[n]: (texts,) int64.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        codes = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32) for text in texts]
        sizes = np.array([len(code) for code in codes])
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        joined = np.concatenate(codes).astype(np.uint64)
        powers, self._inverses = (
            _powers(base, 1 << len(joined).bit_length())[: len(joined)] for base in (_FACTOR, _INVERSE)
        )
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((joined + np.uint64(1)) * powers)])

    def all(self, length: int) -> tuple[Hashes, Indices]:
        """The hashes of all n-grams of this length, and the text of each: (n-grams,) each."""
        count = len(self._inverses) - length + 1
        hashes = (self._sums[length:] - self._sums[:count]) * self._inverses[:count]
        owner = np.repeat(np.arange(len(self.ends)), self.ends - self.starts)[:count]
        within = np.arange(count) + length <= self.ends[owner]
        return mix(hashes[within]), owner[within]

    def at(self, begins: Indices, length: int) -> Hashes:
        """The hashes of the n-grams of this length that begin there: (begins,)."""
        return mix((self._sums[begins + length] - self._sums[begins]) * self._inverses[begins])


def shingles(texts: Sequence[str], length: int) -> tuple[Hashes, Indices]:
    """The hashes of all n-grams of `length` characters in normalized texts, and the text of each.

    A shorter text counts as one n-gram, padded with spaces. Returns (n-grams,) uint64 and (n-grams,) int64.
    """
    if not texts:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return RollingHash([text.ljust(length) for text in texts]).all(length)


@lru_cache(maxsize=4)
def _powers(base: int, count: int) -> Hashes:
    powers = np.full(count, base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers)


def mix(values: Hashes) -> Hashes:
    """Let every bit depend on every bit (the finalizer of MurmurHash3; Appleby 2011)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.asarray(values ^ (values >> np.uint64(33)))
