"""Span corruption: spans, sources and targets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretune.objectives.pretraining.span_corruption import replace_spans, spans

SENTINELS = np.arange(1000, 1100)


def restored(source, target):
    """Each sentinel of `source` replaced by the tokens after it in `target`."""
    parts = {}
    for token in target:
        if token in SENTINELS:
            parts[token] = last = []
        else:
            last.append(token)
    return [token for item in source for token in (parts[item] if item in SENTINELS else [item])]


def draws(seed, length):
    """Random numbers in [0, 1)."""
    return np.random.default_rng(seed).random((2, length))


@given(st.integers(2, 200), st.floats(0.05, 0.6), st.floats(1, 5), st.integers(0, 99))
def test_the_rate_is_kept_in_every_text(length, rate, mean, seed):
    """As many tokens are masked as the rate says, in as many spans as their mean length says, the first never."""
    hidden = spans(length, rate, mean, draws(seed, length))
    assert len(hidden) == length
    assert hidden.sum() == min(max(1, round(length * rate)), length - 1)
    assert not hidden[0]
    assert np.diff(hidden.astype(int)).clip(0).sum() == min(
        max(1, round(hidden.sum() / mean)), hidden.sum(), length - hidden.sum()
    )


@given(st.lists(st.integers(5, 500), min_size=1, max_size=120), st.floats(0.05, 0.6), st.integers(0, 99))
def test_nothing_is_lost(ids, rate, seed):
    """The text is restored by replacing each sentinel of the source by its span in the target."""
    hidden = spans(len(ids), rate, 3, draws(seed, len(ids)))
    source, target = replace_spans(np.array(ids), hidden, SENTINELS)
    assert restored(source.tolist(), target.tolist()) == ids


def test_the_example_of_the_paper():
    """`Thank you <X> me to your party <Y> week` and `<X> for inviting <Y> last <Z>`."""
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week"]
    hidden = np.array([word in {"for", "inviting", "last"} for word in words])
    source, target = replace_spans(np.arange(10, 20), hidden, SENTINELS)
    assert source.tolist() == [10, 11, 1000, 14, 15, 16, 17, 1001, 19]
    assert target.tolist() == [1000, 12, 13, 1001, 18, 1002]


def test_spans_beyond_the_last_sentinel_are_not_masked():
    """With three sentinels two spans are masked: the third ends the target."""
    hidden = np.array([False, True] * 4)
    source, target = replace_spans(np.arange(10, 18), hidden, SENTINELS[:3])
    assert source.tolist() == [10, 1000, 12, 1001, 14, 15, 16, 17]
    assert target.tolist() == [1000, 11, 1001, 13, 1002]
