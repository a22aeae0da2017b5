"""Sequences of different lengths, one after the other without padding: (tokens,) instead of (rows, longest).

Everything that works on one token at a time (embeddings, matrices, norms) then sees real tokens
only. Attention, the one part that looks across tokens, is told where each sequence ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretune.data.loading.batch import Movable

NARROWEST, ROUNDED = 16, 8  # tokens, sequences: see _buckets


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, side by side: where to find their tokens, which of them are padding.

    index: (rows * width,) int64 into the packed tokens; padding points to the first of all.
    padding: (rows, 1, 1, width) bool, or None where there is none.
    """

    rows: int
    width: int
    index: Tensor
    padding: Tensor | None


@dataclass(frozen=True)
class Packed(Movable):
    """Token ids and positions (tokens,) int64, and where each sequence begins, for attention.

    bounds: (sequences + 1,) int32, the cumulative lengths.
    places: (tokens,) int64, where each token is in the buckets one after the other; None where all
    sequences are of one length, so that nothing has to move.
    token_type_ids: (tokens,) int64, 1 in the second of two texts; None where each is one text.
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
        """Where each sequence begins: (sequences,) int64."""
        return self.bounds[:-1].long()

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence: (sequences,) int64."""
        return self.bounds.diff().long()


def pack(
    tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], types: npt.NDArray[np.int64] | None = None
) -> Packed:
    """Pack `tokens` (tokens,), the sequences of `lengths` (sequences,) one after the other; `types` as `tokens`."""
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
    """The same sequences side by side, padded to the longest, as transformers' own forward takes them.

    input_ids, attention_mask and, where there are, token_type_ids: (sequences, longest) int64.
    """
    columns = torch.arange(packed.longest, device=packed.input_ids.device)
    real = columns < packed.lengths[:, None]
    places = torch.where(real, packed.starts[:, None] + columns, 0)
    found = {"input_ids": packed.input_ids[places].where(real, padding), "attention_mask": real.long()}
    if packed.token_type_ids is not None:
        found["token_type_ids"] = packed.token_type_ids[places].where(real, 0)
    return found


def unpadded(values: Tensor, packed: Packed) -> Tensor:
    """Of (sequences, longest, ...) what does not stand at padding: (tokens, ...)."""
    rows = torch.repeat_interleave(
        torch.arange(len(packed.starts), device=values.device), packed.lengths, output_size=len(packed.input_ids)
    )
    return values[rows, packed.position_ids]


def _buckets(bounds: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> tuple[tuple[Bucket, ...], Tensor | None]:
    """Group by powers of two; None for the places where all sequences are as long, so nothing moves.

    Widths and rows are rounded up so that few shapes occur: oneDNN compiles a kernel for each new
    one, which at random shapes costs more than the padding does.
    """
    longest = int(lengths.max())
    if (lengths == longest).all():
        return (Bucket(len(lengths), longest, torch.arange(int(bounds[-1])), None),), None
    widths = np.maximum(NARROWEST, 2 ** np.ceil(np.log2(lengths)).astype(np.int64))
    places = np.empty(int(bounds[-1]), dtype=np.int64)
    buckets: list[Bucket] = []
    offset = 0
    for width in map(int, np.unique(widths)):
        chosen = np.flatnonzero(widths == width)
        rows, columns = -(-len(chosen) // ROUNDED) * ROUNDED, np.arange(width)
        real = np.zeros((rows, width), dtype=bool)
        real[: len(chosen)] = columns < lengths[chosen][:, None]
        index = np.zeros((rows, width), dtype=np.int64)
        index[: len(chosen)] = bounds[chosen][:, None] + columns
        index[~real] = 0
        places[index[real]] = offset + np.flatnonzero(real)
        offset += index.size
        real[len(chosen) :] = True  # rows that only fill up: a softmax over nothing is not a number
        padding = None if real.all() else torch.from_numpy(~real)[:, None, None, :]
        buckets.append(Bucket(rows, width, torch.from_numpy(index.reshape(-1)), padding))
    return tuple(buckets), torch.from_numpy(places)
