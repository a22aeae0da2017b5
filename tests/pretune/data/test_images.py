"""Images: decoded, resized, normalised."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pretune.data import images
from pretune.errors import DataError


def png(array):
    """The bytes of a PNG file with these pixels."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_an_image_of_the_right_size_is_taken_as_it_is():
    """Not one pixel changes; channels come first."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (images.decode([png(grey)], size=8, channels=1)[0, 0] == grey).all()
    assert (images.decode([png(colour)], size=8, channels=3)[0] == colour.transpose(2, 0, 1)).all()


def test_an_image_of_another_size_or_colour_is_made_to_fit():
    """A plain area stays plain; grey becomes three equal channels."""
    found = images.decode([png(np.full((5, 9), 77, dtype=np.uint8))], size=4, channels=3)
    assert found.shape == (1, 3, 4, 4)
    assert (found == 77).all()


def test_a_file_that_is_no_image_is_named():
    """The error says which one."""
    good = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    with pytest.raises(DataError, match="image 1 cannot be read"):
        images.decode([good, b"hello"], size=2, channels=1)
    with pytest.raises(DataError, match="image 0 cannot be read"):
        images.decode([good[: len(good) // 2]], size=2, channels=1)


def test_normalised_values_have_the_mean_taken_off_and_the_deviation_divided_out():
    """(x / 255 - mean) / deviation, channel by channel."""
    pixels = np.array([[[[0]], [[255]]]], dtype=np.uint8)
    found = images.normalise(pixels, mean=[0.5, 0.2], deviation=[0.5, 0.4])
    assert found.dtype == np.float32
    assert found.reshape(-1).tolist() == pytest.approx([-1.0, 2.0])
