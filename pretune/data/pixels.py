"""Images for pretraining: one memory-mapped array of bytes, and how a model is to read them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row

MODES = {1: "L", 3: "RGB"}
BILINEAR = 2  # Pillow's number of it, which transformers' image processors use


def write(folder: Path, rows: Iterable[Row], count: int, *, size: int, channels: int) -> dict[str, list[float]]:
    """Write `images.npy` (count, channels, size, size) uint8; return mean and deviation of each channel, of 0 to 1."""
    images = np.lib.format.open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(count, channels, size, size)
    )
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for number, row in enumerate(rows):
        images[number] = pixels(row["image"], size=size, channels=channels)
        wide = images[number].astype(np.int64)
        sums += wide.sum(axis=(1, 2))
        squares += (wide**2).sum(axis=(1, 2))
    images.flush()
    pixel_count = count * size * size
    mean = sums / pixel_count
    deviation = np.sqrt(squares / pixel_count - mean**2)
    return {"image_mean": (mean / 255).tolist(), "image_std": (np.maximum(deviation, 1) / 255).tolist()}


def pixels(file: bytes, *, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """The content of a PNG file: (channels, size, size)."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as image:
        found = image.convert(MODES[channels])
    if found.size != (size, size):
        found = found.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(found)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def write_processor(folder: Path, size: int, statistics: dict[str, list[float]]) -> None:
    """Write `preprocessor_config.json`, an image processor in transformers' format."""
    content = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **statistics,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
