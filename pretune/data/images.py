"""Images as a model reads them: decoded and resized by Pillow, uint8 until a batch is made of them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pretune.errors import DataError

Pixels = npt.NDArray[np.uint8]
MODES = {1: "L", 3: "RGB"}


def decode(files: Sequence[bytes], *, size: int, channels: int) -> Pixels:
    """The content of image files, made `size` high and wide: (files, channels, size, size)."""
    found = np.empty((len(files), channels, size, size), dtype=np.uint8)
    for number, file in enumerate(files):
        try:
            with Image.open(io.BytesIO(file)) as image:
                pixels = image.convert(MODES[channels])
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"image {number} cannot be read: {error}", "remove the row, then: pretune run") from None
        if pixels.size != (size, size):
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
        array = np.asarray(pixels)
        found[number] = array[None] if channels == 1 else array.transpose(2, 0, 1)
    return found


def normalise(pixels: Pixels, mean: Sequence[float], deviation: Sequence[float]) -> npt.NDArray[np.float32]:
    """uint8 to numbers around 0; mean and deviation are those of each channel, of values from 0 to 1."""
    shape = (1, len(mean), 1, 1)
    centre, spread = (np.array(each, dtype=np.float32).reshape(shape) for each in (mean, deviation))
    return np.asarray((pixels.astype(np.float32) / 255 - centre) / spread, dtype=np.float32)
