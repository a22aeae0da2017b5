"""Sequences of different lengths side by side: (rows, longest), for models that read no packed ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ROUNDED = 8  # tokens: few shapes occur, see pretune/data/loading/varlen.py


def pad(
    sequences: Sequence[npt.NDArray[np.int64]], padding: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Ids, filled up with `padding` on the right, and which of them are real: two of (rows, longest)."""
    lengths = np.array([len(each) for each in sequences])
    longest = -(-int(lengths.max()) // ROUNDED) * ROUNDED
    real = np.arange(longest) < lengths[:, None]
    ids = np.full(real.shape, padding, dtype=np.int64)
    ids[real] = np.concatenate(sequences)
    return ids, real
