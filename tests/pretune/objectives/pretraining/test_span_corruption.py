"""Span corruption: what is hidden, what is read, what is to be written."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretune.objectives.pretraining.span_corruption import corrupt, spans

SENTINELS = np.arange(1000, 1100)


def restored(read, written):
    """Each sentinel of `read` replaced by what follows it in `written`."""
    parts = {}
    for token in written:
        if token in SENTINELS:
            parts[token] = last = []
        else:
            last.append(token)
    return [token for each in read for token in (parts[each] if each in SENTINELS else [each])]


def draws(seed, length):
    """Numbers to draw spans with."""
    return np.random.default_rng(seed).random((2, length))


@given(st.integers(2, 200), st.floats(0.05, 0.6), st.floats(1, 5), st.integers(0, 99))
def test_the_rate_is_kept_in_every_text(length, rate, mean, seed):
    """As many tokens are hidden as the rate says, in as many spans, the first never among them."""
    hidden = spans(length, rate, mean, draws(seed, length))
    assert len(hidden) == length
    assert hidden.sum() == min(max(1, round(length * rate)), length - 1)
    assert not hidden[0]
    assert np.diff(hidden.astype(int)).clip(0).sum() == min(
        max(1, round(hidden.sum() / mean)), hidden.sum(), length - hidden.sum()
    )


@given(st.lists(st.integers(5, 500), min_size=1, max_size=120), st.floats(0.05, 0.6), st.integers(0, 99))
def test_nothing_is_lost(ids, rate, seed):
    """Putting what is written back where its sentinels stand gives the text."""
    hidden = spans(len(ids), rate, 3, draws(seed, len(ids)))
    read, written = corrupt(np.array(ids), hidden, SENTINELS)
    assert restored(read.tolist(), written.tolist()) == ids


def test_the_example_of_the_paper():
    """`Thank you <X> me to your party <Y> week` and `<X> for inviting <Y> last <Z>`."""
    words = ["Thank", "you", "for", "inviting", "me", "to", "your", "party", "last", "week"]
    hidden = np.array([word in {"for", "inviting", "last"} for word in words])
    read, written = corrupt(np.arange(10, 20), hidden, SENTINELS)
    assert read.tolist() == [10, 11, 1000, 14, 15, 16, 17, 1001, 19]
    assert written.tolist() == [1000, 12, 13, 1001, 18, 1002]


def test_spans_beyond_the_last_sentinel_stay():
    """With three sentinels two spans are hidden: the third one closes the list."""
    hidden = np.array([False, True] * 4)
    read, written = corrupt(np.arange(10, 18), hidden, SENTINELS[:3])
    assert read.tolist() == [10, 1000, 12, 1001, 14, 15, 16, 17]
    assert written.tolist() == [1000, 11, 1001, 13, 1002]
