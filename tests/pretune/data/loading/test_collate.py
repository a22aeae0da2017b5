"""Padded batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.collate import ROUNDED, pad

SEQUENCES = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=30), min_size=1, max_size=6)


@given(SEQUENCES)
def test_the_mask_selects_the_sequences(sequences):
    """Each row is its sequence and padding, the longest with less than ROUNDED tokens of it."""
    ids, real = pad([np.array(sequence) for sequence in sequences], 0)
    assert [row[mask].tolist() for row, mask in zip(ids, real, strict=True)] == sequences
    assert not ids[~real].any()
    assert ids.shape[1] - max(map(len, sequences)) in range(ROUNDED)
