"""Padded rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.collate import ROUNDED, pad

SEQUENCES = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=30), min_size=1, max_size=6)


@given(SEQUENCES)
def test_what_is_real_is_what_was_given(sequences):
    """Each row begins with its sequence and ends in padding, the longest in less than ROUNDED."""
    ids, real = pad([np.array(each) for each in sequences], 0)
    assert [row[which].tolist() for row, which in zip(ids, real, strict=True)] == sequences
    assert not ids[~real].any()
    assert ids.shape[1] - max(map(len, sequences)) in range(ROUNDED)
