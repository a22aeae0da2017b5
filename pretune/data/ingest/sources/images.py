"""Images: files in folders that are named after their labels, the IDX format of MNIST, the digits of scikit-learn."""

from __future__ import annotations

import io
import math
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.data.ingest.sources.files import File
from pretune.data.ingest.sources.record import Record, Records
from pretune.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
DIMENSIONS = range(1, 5)  # of an IDX file: numbers, rows, grey images, colour images
SEVERAL = (".gif", ".webp", ".tif", ".tiff")  # may hold several frames


def image(file: File) -> Records:
    """One image per file; `label` is the name of its folder."""
    with file.binary() as stream:
        content = stream.read()
    count = _frames(content) if file.ending in SEVERAL else 1
    warning = "several frames, of which the first is read" if count > 1 else ""
    yield Record(file.name, {"image": content, "label": PurePosixPath(file.name).parent.name}, warning=warning)


def _frames(content: bytes) -> int:
    """The number of frames or pages; 1 of what cannot be opened, of which the mapping of columns gives the reason."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # Pillow raises many kinds for broken files
        return 1


def idx(file: File) -> Records:
    """The entries of an IDX file (LeCun et al.): arrays of bytes, or numbers if the file has one dimension."""
    with file.binary() as stream:
        content = stream.read()
    for number, entry in enumerate(_array(file.name, content)):
        yield Record(f"{file.name}:{number}", {"value": entry if entry.ndim else int(entry)})


def _array(name: str, content: bytes) -> npt.NDArray[np.uint8]:
    """Parse two zero bytes, the type (8: unsigned bytes), the number of dimensions, their big-endian sizes, data."""
    if content[:3] != b"\0\0\x08" or not 4 < len(content) >= 4 + 4 * content[3] or content[3] not in DIMENSIONS:
        raise DataError(f"{name}: not an IDX file of unsigned bytes", "see docs/data.md for the formats")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if len(data) != math.prod(shape):  # of Python's numbers, which do not overflow
        raise DataError(f"{name}: {len(data)} bytes of data instead of {math.prod(shape)}", "download the file again")
    if not len(data) and shape[0]:
        raise DataError(f"{name}: {shape[0]} entries without a byte", "download the file again")
    return data.reshape(shape if len(data) else (0,))


def digits() -> Records:
    """1,797 handwritten digits of 8 x 8 pixels, which are part of scikit-learn (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)
    for number, (pixels, label) in enumerate(zip(images, data.target, strict=True)):
        yield Record(f"digits:{number}", {"image": pixels, "label": int(label)})
