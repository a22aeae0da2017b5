"""Images for pretraining: one memory-mapped array of uint8."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pretune.data.rows import Row
from pretune.predictor.pixels import Pipeline, pixels


def write(folder: Path, rows: Iterable[Row], count: int, *, size: int, channels: int) -> Pipeline:
    """Write `images.npy`, (count, channels, size, size) uint8; return the input pipeline of the model."""
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, channels, size, size)
    )
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for number, row in enumerate(rows):
        images[number] = pixels(row["image"], size, channels)
        values = images[number].astype(np.int64)
        sums += values.sum(axis=(1, 2))
        squares += (values**2).sum(axis=(1, 2))
    images.flush()
    pixel_count = count * size * size
    mean = sums / pixel_count
    deviation = np.sqrt(squares / pixel_count - mean**2)
    return Pipeline(size, (mean / 255).tolist(), (np.maximum(deviation, 1) / 255).tolist())
