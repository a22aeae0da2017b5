"""The input pipeline of images: decoded, resized, normalised, saved and loaded."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from pretune.predictor.pixels import Pipeline


def png(array):
    """The bytes of a PNG file with these pixels."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def pipeline(size, channels):
    """A pipeline with mean 0 and deviation 1."""
    return Pipeline(size, [0.0] * channels, [1.0] * channels)


def test_an_image_of_the_right_size_is_not_changed():
    """Every pixel stays; channels come first."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (pipeline(8, 1).pixels(png(grey)) == grey).all()
    assert (pipeline(8, 3).pixels(png(colour)) == colour.transpose(2, 0, 1)).all()


def test_an_image_of_another_size_or_colour_is_converted():
    """A uniform area stays uniform; grey becomes three equal channels."""
    pixels = pipeline(4, 3).pixels(png(np.full((5, 9), 77, dtype=np.uint8)))
    assert pixels.shape == (3, 4, 4)
    assert (pixels == 77).all()


def test_a_file_that_is_not_an_image_is_an_error():
    """Neither text nor half a file."""
    good = png(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    for bad in (b"hello", good[: len(good) // 2]):
        with pytest.raises(OSError, match=r"image|truncated"):
            pipeline(2, 1).pixels(bad)


def test_values_are_normalised():
    """(x / 255 - mean) / deviation, channel by channel."""
    values = Pipeline(1, [0.5, 0.2], [0.5, 0.4]).values(np.array([[[[0]], [[255]]]], dtype=np.uint8))
    assert values.dtype == np.float32
    assert values.reshape(-1).tolist() == pytest.approx([-1.0, 2.0])


def test_a_saved_pipeline_is_loaded_again(tmp_path):
    """In the format of transformers' own image processors."""
    Pipeline(8, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]).save_pretrained(tmp_path)
    loaded = Pipeline.load(tmp_path)
    assert (loaded.size, loaded.mean, loaded.deviation) == (8, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    config = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert config["image_processor_type"] == "ViTImageProcessor"


def test_the_pipeline_equals_that_of_transformers(tmp_path):
    """Its own processor for Pillow, loaded from our folder, gives the same values."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    ours = Pipeline(8, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    ours.save_pretrained(tmp_path)
    theirs = ViTImageProcessorPil.from_pretrained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = theirs(Image.fromarray(picture), return_tensors="np")["pixel_values"]
    assert ours.values(ours.pixels(png(picture))[None]) == pytest.approx(expected, abs=0.02)
