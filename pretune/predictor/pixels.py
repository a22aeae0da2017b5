"""The input pipeline of images, with Pillow and without torchvision."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

FILE = "preprocessor_config.json"
PIXELS = 89_478_485  # of which Pillow warns; a file of 200 kB may declare twice as many, which take gigabytes
MODES = {1: "L", 3: "RGB"}
BROKEN = (
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    ValueError,
    SyntaxError,
    struct.error,
)  # what Pillow raises but for OSError


class Pipeline:
    """An image processor in transformers' format: resize to `size`, subtract `mean`, divide by `deviation`.

    size: side in pixels. mean, deviation: for each channel, of values from 0 to 1.
    """

    def __init__(self, size: int, mean: Sequence[float], deviation: Sequence[float]) -> None:
        self.size, self.mean, self.deviation = size, list(mean), list(deviation)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Load the pipeline that `save_pretrained` wrote to `folder`."""
        config = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        return cls(config["size"]["height"], config["image_mean"], config["image_std"])

    def save_pretrained(self, folder: Path | str) -> None:
        """Write preprocessor_config.json."""
        config = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "resample": int(Image.Resampling.BILINEAR),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean,
            "image_std": self.deviation,
        }
        (Path(folder) / FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")

    def pixels(self, file: bytes) -> npt.NDArray[np.uint8]:
        """The pixels of an image file: (channels, size, size) uint8. OSError if it is not an image."""
        return pixels(file, self.size, len(self.mean))

    def values(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Normalised values, the model's input: (images, channels, size, size) float32."""
        mean, deviation = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.deviation))
        return np.asarray((pixels.astype(np.float32) / 255 - mean) / deviation, dtype=np.float32)


def pixels(file: bytes, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """The pixels of an image file: (channels, size, size) uint8. OSError if it is not an image."""
    converted = open_image(file).convert(MODES[channels])
    if converted.size != (size, size):
        converted = converted.resize((size, size), Image.Resampling.BILINEAR)
    array = np.asarray(converted)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def open_image(file: bytes) -> Image.Image:
    """The image in a file, in training as in prediction: grey or RGB, 8 bits, upright. OSError if it is none.

    The orientation of EXIF is applied, 16 bits are scaled to 8, what is transparent lies on white, and of several
    frames it is the first. Nothing is decoded of one that declares more than PIXELS.
    """
    try:
        with Image.open(io.BytesIO(file)) as image:
            if image.width * image.height > PIXELS:
                raise OSError(f"{image.width} x {image.height} pixels, more than {PIXELS:,}")
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise OSError("no known image format") from None
    except BROKEN as error:
        raise OSError(str(error)) from error
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(upright, dtype=np.float64) / 257).round().astype(np.uint8))
    if upright.mode in {"I", "F"}:
        raise OSError("its values are no bytes and have no known range; save it with 8 or 16 bits")
    if upright.has_transparency_data:
        upright = upright.convert("LA" if upright.mode in {"L", "LA", "La", "1"} else "RGBA")
        white = Image.new(upright.mode, upright.size, "white")
        upright = Image.alpha_composite(white, upright) if upright.mode == "RGBA" else _on_white(upright)
    return upright.convert("L" if upright.mode in {"1", "L", "LA"} else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """A grey image with transparency on white."""
    grey, alpha = image.split()
    return Image.composite(grey, Image.new("L", image.size, 255), alpha)
