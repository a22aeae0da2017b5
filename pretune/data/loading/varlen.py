"""Sequences of different lengths, packed without padding: (tokens,) instead of (rows, longest).

Layers that work on one token at a time (embeddings, linear layers, norms) then see no padding. Attention is the only
layer that works across tokens; `bounds` tells it where each sequence begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretune.data.loading.batch import Movable

NARROWEST, ROUNDED = 16, 8  # tokens, sequences: see _buckets
ROW_PADDING = 512  # tokens: rows are rounded up by less than this


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length as padded rows: the indices of their tokens, and a mask.

    index: (rows * width,) int64 into the packed tokens, 0 at padding.
    padding: (rows, 1, 1, width) bool, True at padding; None for a bucket without padding.
    """

    rows: int
    width: int
    index: Tensor
    padding: Tensor | None


@dataclass(frozen=True)
class Packed(Movable):
    """Token ids and positions, (tokens,) int64, and the bounds of the sequences, for attention.

    bounds: (sequences + 1,) int32, the cumulative lengths.
    places: (tokens,) int64, the position of each token in the concatenated buckets; None where all sequences have the
    same length, so that no token has to move.
    token_type_ids: (tokens,) int64, 1 in the second of two texts; None for single texts.
    """

    input_ids: Tensor
    position_ids: Tensor
    bounds: Tensor
    longest: int
    buckets: tuple[Bucket, ...]
    places: Tensor | None
    token_type_ids: Tensor | None = None

    @property
    def starts(self) -> Tensor:
        """The first token of each sequence: (sequences,) int64."""
        return self.bounds[:-1].long()

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence: (sequences,) int64."""
        return self.bounds.diff().long()


def pack(
    tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], types: npt.NDArray[np.int64] | None = None
) -> Packed:
    """Pack sequences: their concatenated `tokens` (tokens,), `lengths` (sequences,) and token `types` (tokens,)."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(len(tokens)) - np.repeat(bounds[:-1], lengths)
    buckets, places = _buckets(bounds, lengths)
    return Packed(
        torch.from_numpy(tokens),
        torch.from_numpy(positions),
        torch.from_numpy(bounds.astype(np.int32)),
        int(lengths.max()),
        buckets,
        places,
        None if types is None else torch.from_numpy(types),
    )


def padded(packed: Packed, padding: int) -> dict[str, Tensor]:
    """The sequences padded to the longest, as arguments of a `forward` of transformers.

    input_ids, attention_mask and, for pairs, token_type_ids: (sequences, longest) int64.
    """
    columns = torch.arange(packed.longest, device=packed.input_ids.device)
    real = columns < packed.lengths[:, None]
    places = torch.where(real, packed.starts[:, None] + columns, 0)
    arguments = {"input_ids": packed.input_ids[places].where(real, padding), "attention_mask": real.long()}
    if packed.token_type_ids is not None:
        arguments["token_type_ids"] = packed.token_type_ids[places].where(real, 0)
    return arguments


def unpadded(values: Tensor, packed: Packed) -> Tensor:
    """The values at tokens: from (sequences, longest, ...) to (tokens, ...)."""
    rows = torch.repeat_interleave(
        torch.arange(len(packed.starts), device=values.device), packed.lengths, output_size=len(packed.input_ids)
    )
    return values[rows, packed.position_ids]


def width_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The width of the bucket of a sequence: a power of two, above 128 also one and a half times one."""
    powers = np.maximum(NARROWEST, 2 ** np.ceil(np.log2(lengths)).astype(np.int64))
    between = powers * 3 // 4
    return np.where((powers > 128) & (lengths <= between), between, powers)


def _buckets(bounds: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> tuple[tuple[Bucket, ...], Tensor | None]:
    """Group sequences into buckets of similar length; places are None where all lengths are equal.

    Widths and rows are rounded up so that few shapes occur: oneDNN compiles a kernel for each new shape, which costs
    more than the padding. Where rows are wide it does not, so there are more widths and fewer rows of padding.
    """
    longest = int(lengths.max())
    if (lengths == longest).all():
        return (Bucket(len(lengths), longest, torch.arange(int(bounds[-1])), None),), None
    widths = width_of(lengths)
    places = np.empty(int(bounds[-1]), dtype=np.int64)
    buckets: list[Bucket] = []
    offset = 0
    for width in map(int, np.unique(widths)):
        chosen = np.flatnonzero(widths == width)
        multiple = max(1, min(ROUNDED, ROW_PADDING // width))
        rows, columns = -(-len(chosen) // multiple) * multiple, np.arange(width)
        real = np.zeros((rows, width), dtype=bool)
        real[: len(chosen)] = columns < lengths[chosen][:, None]
        index = np.zeros((rows, width), dtype=np.int64)
        index[: len(chosen)] = bounds[chosen][:, None] + columns
        index[~real] = 0
        places[index[real]] = offset + np.flatnonzero(real)
        offset += index.size
        real[len(chosen) :] = True  # rows of padding only: a softmax over no tokens would be NaN
        padding = None if real.all() else torch.from_numpy(~real)[:, None, None, :]
        buckets.append(Bucket(rows, width, torch.from_numpy(index.reshape(-1)), padding))
    return tuple(buckets), torch.from_numpy(places)
