"""Similarity of texts by sketches of a fixed size: one-permutation MinHash (Li et al. 2012).

Each character n-gram falls into one of BINS bins, and each bin keeps its smallest hash. The share of equal bins among
those that either text fills estimates the Jaccard similarity of the sets of n-grams: exactly for short texts, whose
n-grams have bins of their own, and within about 0.04 for long texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pretune.data.similarity.shingles import Hashes, mix, shingles
from pretune.data.workers import by_length

BINS = 128
SHINGLE = 5  # characters
BANDS, WIDTH = 25, 5  # texts of similarity s share a band with probability 1 - (1 - s**WIDTH)**BANDS: 0.8 -> 0.9999
BATCH = 2**16  # characters that are hashed at once, so that they fit into the cache
EMPTY = np.uint64(2**64 - 1)  # a bin without a hash
EMPTY_SHORT = np.uint16(2**16 - 1)  # the same in a sketch

Sketch = npt.NDArray[np.uint16]


def sketches(texts: Sequence[str]) -> tuple[Sketch, Hashes]:
    """Of normalized texts: sketches (texts, BINS) uint16, and hashes of bands (texts, BANDS) uint64.

    Similar texts have similar sketches and share a band.
    """
    least = np.concatenate([_least(batch) for batch in by_length(texts, BATCH)] or [np.empty((0, BINS), np.uint64)])
    filled = least != EMPTY
    short = (least & np.uint64(0xFFFF)).astype(np.uint16)
    sketch = np.where(filled, np.minimum(short, EMPTY_SHORT - np.uint16(1)), EMPTY_SHORT)
    bands = _densified(least, filled)[:, : BANDS * WIDTH].reshape(-1, BANDS, WIDTH)
    hashes = np.zeros(bands.shape[:2], np.uint64)
    for column in range(WIDTH):
        hashes = mix(hashes + bands[:, :, column])
    return sketch, hashes


def similarity(first: Sketch, second: Sketch) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of the texts of each row of two sketches: (rows,)."""
    either = ((first != EMPTY_SHORT) | (second != EMPTY_SHORT)).sum(axis=1)
    same = ((first == second) & (first != EMPTY_SHORT)).sum(axis=1)
    return np.asarray(same / np.maximum(either, 1))


def _least(texts: list[str]) -> Hashes:
    """The smallest hash of each bin: (texts, BINS); EMPTY for a bin without n-grams."""
    hashes, owner = shingles(texts, SHINGLE)
    least = np.full(len(texts) * BINS, EMPTY)
    bins = (hashes >> np.uint64(64 - 7)).astype(np.int64)
    np.minimum.at(least, owner * BINS + bins, hashes & np.uint64(2**57 - 1))
    return least.reshape(-1, BINS)


def _densified(least: Hashes, filled: npt.NDArray[np.bool_]) -> Hashes:
    """Let empty bins borrow from the next full one, by rotation (Shrivastava and Li 2014)."""
    columns = np.arange(2 * BINS)
    twice = np.concatenate([filled, filled], axis=1)
    full = np.where(twice, columns, 2 * BINS)
    source = np.minimum.accumulate(full[:, ::-1], axis=1)[:, ::-1][:, :BINS]
    distance = (source - columns[:BINS]).astype(np.uint64)
    return np.asarray(np.take_along_axis(least, source % BINS, axis=1) + distance * np.uint64(0x9E3779B97F4A7C15))
