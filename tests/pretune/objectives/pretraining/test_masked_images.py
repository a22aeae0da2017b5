"""Masked image modelling: the masks, and the loss against transformers' own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedImageModeling

from pretune.data.loading.arrays import Samples
from pretune.errors import ParamsError
from pretune.objectives.pretraining.masked_images import MaskedImages
from pretune.predictor.pixels import Pipeline

SIZE, PATCH = 16, 4


def objective(square=PATCH, rate=0.5, channels=1, seed=0):
    """Twenty noisy images."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, channels, SIZE, SIZE), dtype=np.uint8)
    pipeline = Pipeline(SIZE, [0.4] * channels, [0.3] * channels)
    return MaskedImages(Samples(pixels), pipeline, rate=rate, square=square, seed=seed)


@pytest.fixture
def model(deterministic):
    """A function from a number of channels to the smallest vision transformer."""

    def build(channels=1, **chosen):
        settings = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        settings |= {"image_size": SIZE, "patch_size": PATCH, "encoder_stride": PATCH, "num_channels": channels}
        return AutoModelForMaskedImageModeling.from_config(AutoConfig.for_model("vit", **settings | chosen)).eval()

    return build


def batch(task, samples=(3, 1, 7), epoch=0):
    """These images in an epoch."""
    return task.batch(np.full(len(samples), epoch), np.array(samples))


def test_the_same_number_of_squares_is_masked_in_every_image():
    """As many as the rate says, at least one and at most all."""
    for rate, hidden in ((0.5, 8), (0.01, 1), (0.99, 16)):
        images = batch(objective(rate=rate))
        assert images.hidden.sum(dim=1).tolist() == [hidden] * 3
        assert (images.count, images.tokens) == (3 * hidden, 48)
        assert images.hidden.flatten()[images.positions].all()


def test_the_mask_depends_on_seed_epoch_and_sample_only():
    """Not on the other images of the batch; another epoch or seed masks other squares."""
    alone, together = batch(objective(), [7]), batch(objective())
    assert (alone.hidden[0] == together.hidden[2]).all()
    assert (alone.pixel_values[0] == together.pixel_values[2]).all()
    for other in (batch(objective(), [7], epoch=1), batch(objective(seed=1), [7]), batch(objective(), [8])):
        assert (other.hidden != alone.hidden).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_is_that_of_transformers(model, channels):
    """Its mean absolute error over masked pixels, summed over squares instead of averaged."""
    task, network = objective(channels=channels), model(channels)
    images = batch(task)
    with torch.no_grad():
        theirs = network(pixel_values=images.pixel_values, bool_masked_pos=images.hidden).loss
        assert float(task.loss(network, images)) == pytest.approx(float(theirs) * images.count, rel=1e-4)


def test_a_square_may_be_of_several_patches(model):
    """All four patches of a masked square are masked, and the loss is that of its pixels."""
    task, network = objective(square=8, channels=3), model(3)
    images = batch(task)
    hidden = images.hidden.view(3, 2, 2).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    with torch.no_grad():
        theirs = network(pixel_values=images.pixel_values, bool_masked_pos=hidden).loss
        assert float(task.loss(network, images)) == pytest.approx(float(theirs) * images.count, rel=1e-4)


def test_sizes_that_do_not_go_together_are_refused(model):
    """Squares that do not divide the image, patches that do not divide the squares, a stride other than the patch."""
    with pytest.raises(ParamsError, match="5 does not divide the 16 pixels"):
        objective(square=5)
    with pytest.raises(ParamsError, match=r"square 2 must be a multiple of model\.config\.patch_size 4"):
        objective(square=2).loss(model(), batch(objective(square=2)))
    with pytest.raises(ParamsError, match="encoder_stride be 4"):
        objective().loss(model(encoder_stride=8), batch(objective()))
