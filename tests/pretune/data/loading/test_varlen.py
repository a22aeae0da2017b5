from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretune.data.loading.varlen import NARROWEST, ROUNDED, ROW_PADDING, pack, width_of

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40) | st.builds(
    lambda length, count: [length] * count, st.integers(1, 200), st.integers(1, 12)
)


def packed(lengths):
    """Packed sequences whose tokens are 0, 1, 2 and so on."""
    return pack(np.arange(sum(lengths)), np.array(lengths))


@given(LENGTHS)
def test_tokens_are_consecutive_and_positions_restart(lengths):
    """There is no padding, and the positions of each sequence begin at 0."""
    batch = packed(lengths)
    assert torch.equal(batch.input_ids, torch.arange(sum(lengths)))
    assert batch.position_ids.tolist() == [position for length in lengths for position in range(length)]


@given(LENGTHS)
def test_bounds_are_the_cumulative_lengths(lengths):
    """In 32 bits, as kernels need them; starts and lengths follow from them."""
    batch = packed(lengths)
    assert batch.bounds.dtype == torch.int32
    assert batch.bounds.tolist() == [0, *np.cumsum(lengths)]
    assert batch.lengths.tolist() == lengths
    assert (batch.position_ids[batch.starts] == 0).all()
    assert batch.longest == max(lengths)


def bucket_rows(batch):
    """The tokens of each row of each bucket, and the mask of those that can be attended to."""
    for bucket in batch.buckets:
        index = bucket.index.view(bucket.rows, bucket.width)
        visible = torch.ones_like(index, dtype=torch.bool) if bucket.padding is None else ~bucket.padding[:, 0, 0]
        yield from zip(index, visible, strict=True)


@given(LENGTHS)
def test_every_sequence_has_a_row_of_its_own(lengths):
    """Its tokens from the left, in order, and no other token to attend to."""
    batch = packed(lengths)
    own = {tuple(range(start, start + length)) for start, length in zip(batch.starts.tolist(), lengths, strict=True)}
    if batch.places is None:
        assert {tuple(row.tolist()) for row, _ in bucket_rows(batch)} == own
        return
    real = torch.zeros(sum(b.index.numel() for b in batch.buckets), dtype=torch.bool)
    real[batch.places] = True
    parts = real.split([b.index.numel() for b in batch.buckets])
    filled = torch.cat([part.view(b.rows, b.width).any(dim=1) for part, b in zip(parts, batch.buckets, strict=True)])
    rows = [row[visible] for (row, visible), used in zip(bucket_rows(batch), filled, strict=True) if used]
    assert len(rows) == len(lengths)
    assert {tuple(row.tolist()) for row in rows} == own


@given(LENGTHS)
def test_places_are_the_inverse_of_the_indices_of_buckets(lengths):
    """Every token is found once, at its place."""
    batch = packed(lengths)
    indices = torch.cat([bucket.index for bucket in batch.buckets])
    if batch.places is None:
        assert torch.equal(indices, torch.arange(sum(lengths)))
    else:
        assert torch.equal(indices[batch.places], torch.arange(sum(lengths)))
        assert len(batch.places.unique()) == sum(lengths)


@given(LENGTHS)
def test_every_row_has_a_token_to_attend_to(lengths):
    """Rows of padding too, since a softmax over no tokens is NaN."""
    assert all(visible.any() for _, visible in bucket_rows(packed(lengths)))


@given(LENGTHS)
def test_few_shapes_occur_and_little_is_padding(lengths):
    """Widths are at most twice the length, 1.5 times a long one; rows of padding have less than 512 tokens."""
    batch = packed(lengths)
    if len(set(lengths)) == 1:
        assert [(bucket.rows, bucket.width) for bucket in batch.buckets] == [(len(lengths), lengths[0])]
        return
    for bucket in batch.buckets:
        inside = [n for n in lengths if width_of(np.array([n]))[0] == bucket.width]
        assert inside
        assert all(bucket.width <= max(NARROWEST, 2 * n if n <= 128 else 1.5 * n) for n in inside)
        assert len(inside) <= bucket.rows < len(inside) + ROUNDED
        assert (bucket.rows - len(inside)) * bucket.width < ROW_PADDING


@pytest.mark.parametrize("lengths", [[4, 4], [4, 9, 30]])
def test_moving_to_the_same_device_changes_nothing(lengths):
    """On a CPU the batch itself is returned."""
    batch = packed(lengths)
    assert batch.to(torch.device("cpu")) is batch


@pytest.mark.parametrize("lengths", [[4, 4], [4, 9, 30]])
def test_every_tensor_of_a_batch_moves(lengths):
    """None stays on the CPU."""
    moved = packed(lengths).to(torch.device("meta"))
    tensors = [moved.input_ids, moved.position_ids, moved.bounds, moved.starts, moved.lengths, moved.places]
    tensors += [tensor for bucket in moved.buckets for tensor in (bucket.index, bucket.padding)]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert (moved.places is None) == (lengths == [4, 4])
