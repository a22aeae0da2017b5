"""Images as people have them: the same pixels in training and in prediction."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pretune.data.ingest.columns import READERS
from pretune.predictor.pixels import open_image, pixels


def encoded(picture, kind="PNG", **options):
    """The bytes of an image file."""
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def test_sixteen_bits_become_eight():
    """By the depth of the file, not by its values: a dark image stays dark."""
    values = np.array([[0, 257, 1000, 32896, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.asarray(open_image(encoded(Image.fromarray(values), kind))).tolist() == [[0, 1, 4, 128, 255]]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 13_000, 100_000])
def test_an_image_that_declares_too_many_pixels_is_refused(side):
    """By its header, before anything is decoded: a file of a few bytes would take gigabytes."""
    small = bytearray(encoded(Image.new("L", (2, 2))))
    small[16:24] = struct.pack(">II", side, side)
    small[29:33] = struct.pack(">I", zlib.crc32(small[12:29]))
    with pytest.raises(OSError, match="pixels"):
        open_image(bytes(small))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright(orientation):
    """However the camera was held: EXIF says which side is up."""
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[:, :2] = (250, 0, 0)
    upright[0, 5] = (0, 0, 250)
    stored = {
        1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"], 6: ["ROTATE_90"],
        7: ["TRANSVERSE"], 8: ["ROTATE_270"],
    }[orientation]  # fmt: skip
    picture = Image.fromarray(upright)
    for method in stored:
        picture = picture.transpose(getattr(Image.Transpose, method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(np.asarray(open_image(encoded(picture, exif=exif.tobytes()))), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_becomes_grey_or_rgb(mode):
    """Half is black, half white; what is transparent is white."""
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0) if mode in {"LA", "RGBA"} else (255, 255, 255, 255))
    picture = picture if mode == "RGBA" else picture.convert("LA" if mode == "LA" else "RGB").convert(mode)
    shown = open_image(encoded(picture, "TIFF" if mode == "CMYK" else "PNG"))
    assert shown.mode in {"L", "RGB"}
    assert np.asarray(shown.convert("L")).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    "file", [b"", b"text", encoded(Image.new("L", (64, 64)))[:-40], encoded(Image.new("F", (2, 2)), "TIFF")],
    ids=["empty", "text", "truncated", "floats"],
)  # fmt: skip
def test_what_is_no_image_is_an_error(file):
    """Nothing is guessed."""
    with pytest.raises(OSError, match=r".+"):
        open_image(file)


@pytest.mark.parametrize("mode", ["I;16", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_stored_image_has_the_pixels_of_the_file(mode):
    """`ingest` stores a PNG of the upright image; a predictor reads the file itself."""
    values = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    picture = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values)
    picture = picture.convert("RGB") if mode in {"P", "CMYK"} else picture
    exif = Image.Exif()
    exif[0x0112] = 6
    file = encoded(picture.convert(mode), "JPEG" if mode == "CMYK" else "PNG", exif=exif.tobytes())
    stored = READERS["image"](file, "image")
    for channels in (1, 3):
        assert np.array_equal(pixels(file, 4, channels), pixels(stored, 4, channels))
