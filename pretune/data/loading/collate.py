"""Padded batches, (rows, longest), for models that cannot read packed sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ROUNDED = 8  # lengths are multiples of it, so that few shapes occur (see varlen.py)


def pad(
    sequences: Sequence[npt.NDArray[np.int64]], padding: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Ids, padded on the right with `padding`, and a mask that is False at padding: (rows, longest) each."""
    lengths = np.array([len(sequence) for sequence in sequences])
    longest = -(-int(lengths.max()) // ROUNDED) * ROUNDED
    real = np.arange(longest) < lengths[:, None]
    ids = np.full(real.shape, padding, dtype=np.int64)
    ids[real] = np.concatenate(sequences)
    return ids, real
