"""Counter-based random numbers: a function of their key, and not of the numbers drawn before (Salmon et al. 2011)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(
    key: tuple[int, ...], epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) for each (epoch, sample): (samples, count).

    A hash (SplitMix64; Steele et al. 2014) of the key, the epoch, the sample and the column. A sample gets the same
    numbers in any process, batch and order.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in (*(np.array([number]) for number in key), epochs, samples):
        state = _mix(state + part.astype(np.uint64))
    bits = _mix(state[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
