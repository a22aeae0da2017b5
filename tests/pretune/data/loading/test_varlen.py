from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.varlen import NARROWEST, ROUNDED, pack

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40) | st.builds(
    lambda length, count: [length] * count, st.integers(1, 200), st.integers(1, 12)
)


def packed(lengths):
    """A pack whose tokens are their own places."""
    return pack(np.arange(sum(lengths)), np.array(lengths))


@given(LENGTHS)
def test_tokens_follow_each_other_and_positions_start_anew(lengths):
    """Nothing is added, and each sequence counts from zero."""
    found = packed(lengths)
    assert torch.equal(found.input_ids, torch.arange(sum(lengths)))
    assert found.position_ids.tolist() == [place for length in lengths for place in range(length)]


@given(LENGTHS)
def test_bounds_say_where_sequences_begin_and_end(lengths):
    """Cumulative lengths in 32 bits, as kernels want them; starts and lengths follow from them."""
    found = packed(lengths)
    assert found.bounds.dtype == torch.int32
    assert found.bounds.tolist() == [0, *np.cumsum(lengths)]
    assert found.lengths.tolist() == lengths
    assert (found.position_ids[found.starts] == 0).all()
    assert found.longest == max(lengths)


def shown(found):
    """Of each row of each bucket: its tokens and which of them may be attended to."""
    for bucket in found.buckets:
        index = bucket.index.view(bucket.rows, bucket.width)
        seen = torch.ones_like(index, dtype=torch.bool) if bucket.padding is None else ~bucket.padding[:, 0, 0]
        yield from zip(index, seen, strict=True)


@given(LENGTHS)
def test_every_sequence_has_a_row_of_its_own(lengths):
    """Its tokens from the left, in order, and nothing else to attend to."""
    found = packed(lengths)
    own = {tuple(range(start, start + length)) for start, length in zip(found.starts.tolist(), lengths, strict=True)}
    if found.places is None:
        assert {tuple(row.tolist()) for row, _ in shown(found)} == own
        return
    real = torch.zeros(sum(b.index.numel() for b in found.buckets), dtype=torch.bool)
    real[found.places] = True
    which = real.split([b.index.numel() for b in found.buckets])
    rows = torch.cat([part.view(b.rows, b.width).any(dim=1) for part, b in zip(which, found.buckets, strict=True)])
    found_rows = [row[seen] for (row, seen), filled in zip(shown(found), rows, strict=True) if filled]
    assert len(found_rows) == len(lengths)
    assert {tuple(row.tolist()) for row in found_rows} == own


@given(LENGTHS)
def test_what_is_spread_over_buckets_is_found_again(lengths):
    """`places` is the inverse of the buckets' indices: every token once, in its place."""
    found = packed(lengths)
    spread = torch.cat([bucket.index for bucket in found.buckets])
    if found.places is None:
        assert torch.equal(spread, torch.arange(sum(lengths)))
    else:
        assert torch.equal(spread[found.places], torch.arange(sum(lengths)))
        assert len(found.places.unique()) == sum(lengths)


@given(LENGTHS)
def test_every_row_has_something_to_attend_to(lengths):
    """Those that only fill a bucket up as well: a softmax over nothing is not a number."""
    assert all(seen.any() for _, seen in shown(packed(lengths)))


@given(LENGTHS)
def test_few_shapes_occur_and_little_is_padding(lengths):
    """Widths are powers of two at most twice as wide as needed, rows are rounded up."""
    found = packed(lengths)
    if len(set(lengths)) == 1:
        assert [(bucket.rows, bucket.width) for bucket in found.buckets] == [(len(lengths), lengths[0])]
        return
    for bucket in found.buckets:
        inside = [n for n in lengths if max(NARROWEST, 2 ** (n - 1).bit_length()) == bucket.width]
        assert inside
        assert len(inside) <= bucket.rows < len(inside) + ROUNDED
        assert bucket.rows % ROUNDED == 0


@pytest.mark.parametrize("lengths", [[4, 4], [4, 9, 30]])
def test_moving_to_the_same_device_changes_nothing(lengths):
    """On a CPU the pack itself is returned."""
    found = packed(lengths)
    assert found.to(torch.device("cpu")) is found


@pytest.mark.parametrize("lengths", [[4, 4], [4, 9, 30]])
def test_every_tensor_of_a_pack_moves(lengths):
    """None is left behind on the CPU."""
    moved = packed(lengths).to(torch.device("meta"))
    tensors = [moved.input_ids, moved.position_ids, moved.bounds, moved.starts, moved.lengths, moved.places]
    tensors += [each for bucket in moved.buckets for each in (bucket.index, bucket.padding)]
    assert {each.device.type for each in tensors if each is not None} == {"meta"}
    assert (moved.places is None) == (lengths == [4, 4])
