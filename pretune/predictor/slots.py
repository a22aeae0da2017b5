"""A cache of keys and values with a row for each sequence that is decoded, and the attention that reads it.

A sequence begins at the first place of its row, whatever the others do. Places after its last token are hidden and
add exact zeros, so what a row gets does not depend on the rows beside it (docs/decisions/0039).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache

SLOTS = "pretune_slots"
ROWS = 4  # their number is a multiple: matrix products of one to three rows are rounded otherwise
WIDTH = 64  # so is the width, of the lanes of a vector: sums over tokens keep their order


class Slots:
    """Keys and values of all layers: (rows, heads, width, size) each; on a CPU in fp32, in which they are multiplied.

    lengths: the tokens in each row, 0 if it is free.
    """

    def __init__(self, rows: int) -> None:
        self.lengths = [0] * _up(rows, ROWS)
        self.width = WIDTH
        self._layers: list[list[Tensor]] = []
        self._biases: dict[int | None, Tensor] = {}

    def keep(self, rows: Sequence[int]) -> None:
        """Leave these rows, now the first ones, with a few free ones if need be."""
        lengths = [self.lengths[row] for row in rows]
        self.lengths = lengths + [0] * (_up(len(rows), ROWS) - len(rows))
        self._copy(list(rows))

    def reserve(self, tokens: int) -> None:
        """Make each row wide enough for `tokens`."""
        if tokens > self.width:
            self.width = _up(tokens, WIDTH)
            self._copy(list(range(len(self.lengths))))

    def insert(self, row: int, read: DynamicCache) -> None:
        """Put a sequence that was read alone into `row`."""
        self.lengths[row] = read.get_seq_length()
        self.reserve(self.lengths[row])
        if not self._layers:
            self._layers = [[self._empty(layer.keys), self._empty(layer.values)] for layer in read.layers]
        for own, layer in zip(self._layers, read.layers, strict=True):
            for buffer, part in zip(own, (layer.keys, layer.values), strict=True):
                buffer[row].zero_()  # hidden, but 0 times what is not finite is not 0
                buffer[row, :, : self.lengths[row]] = part[0]

    def extract(self, row: int, tokens: int, dtype: torch.dtype) -> DynamicCache:
        """The first `tokens` of a row as a cache of its own."""
        cache = DynamicCache()
        for number, layer in enumerate(self._layers if tokens else ()):
            keys, values = (buffer[row : row + 1, :, :tokens].to(dtype) for buffer in layer)
            cache.update(keys, values, number)
        return cache

    def begin(self, device: torch.device) -> Tensor:
        """Prepare for one more token in each row; their positions: (rows, 1)."""
        self.reserve(max(self.lengths) + 1)
        self._places = torch.tensor(self.lengths, device=device)
        self._rows = torch.arange(len(self.lengths), device=device)
        self._biases.clear()
        return self._places[:, None]

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add a token to each row, (rows, heads, 1, size); what attention reads. As transformers' Cache."""
        for buffer, new in zip(self._layers[layer], (key, value), strict=True):
            buffer[self._rows, :, self._places] = new[:, :, 0].to(buffer.dtype)
        keys, values = self._layers[layer]
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002 - the signature is that of transformers' Cache
        """Tokens in the longest row."""
        return max(self.lengths)

    def bias(self, window: int | None) -> Tensor:
        """0 where the newest token of a row attends to, else minus infinity: (rows, 1, 1, width)."""
        if window not in self._biases:
            distance = self._places[:, None] - torch.arange(self.width, device=self._places.device)
            hidden = (distance < 0) | (distance >= (window or self.width))
            zeros = self._layers[0][0].new_zeros(hidden.shape)
            self._biases[window] = zeros.masked_fill(hidden, float("-inf"))[:, None, None]
        return self._biases[window]

    def _empty(self, part: Tensor) -> Tensor:
        dtype = torch.float32 if part.device.type == "cpu" else part.dtype
        return part.new_zeros(len(self.lengths), part.shape[1], self.width, part.shape[3], dtype=dtype)

    def _copy(self, rows: list[int]) -> None:
        """Move `rows` to the front of new buffers of the size that lengths and width say."""
        for layer in self._layers:
            for number, old in enumerate(layer):
                new = old.new_zeros(len(self.lengths), old.shape[1], self.width, old.shape[3])
                new[: len(rows), :, : old.shape[2]] = old[rows]
                layer[number] = new


def slots_attention(
    module: Any,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    *,
    slots: Slots,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one token in each row, (rows, heads, 1, size); returns (rows, 1, heads, size)."""
    rows, heads, _one, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    grouped = query.reshape(rows, key.shape[1], -1, size).to(key.dtype)  # heads that share keys, without copies of them
    bias = slots.bias(sliding_window)
    if query.is_cuda:
        output = functional.scaled_dot_product_attention(grouped, key, value, bias, scale=scale)
    else:  # faster than SDPA for single tokens on a CPU
        weights = torch.softmax(torch.matmul(grouped * scale, key.transpose(-1, -2)) + bias, dim=-1)
        output = torch.matmul(weights, value)
    return output.to(query.dtype).reshape(rows, 1, heads, -1), None


def _up(number: int, multiple: int) -> int:
    return -(-max(number, 1) // multiple) * multiple


AttentionInterface.register(SLOTS, slots_attention)
