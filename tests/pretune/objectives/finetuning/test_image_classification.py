"""Image classification: batches, predictions, and errors for files that are not images."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.image_classification import ImageClassification
from pretune.predictor.pixels import Pipeline

LABELS = ["dark", "light"]


def png(array):
    """The bytes of a PNG file with these pixels."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows(count=8):
    """Dark and light images."""
    draw = np.random.default_rng(0)
    return [
        {"image": png(draw.integers(0, 100, (8, 8)) + 150 * (n % 2)), "label": LABELS[n % 2], "origin": f"made:{n}"}
        for n in range(count)
    ]


def context():
    """Images of 8 by 8 pixels, one channel."""
    return ObjectiveContext(Pipeline(8, [0.5], [0.5]), 0, 0, None, LABELS)


def test_a_batch_holds_the_samples_with_their_labels():
    """In the order of the indices, normalised."""
    task = ImageClassification(rows(), context())
    batch = task.batch(np.zeros(3, dtype=int), np.array([5, 0, 3]))
    assert batch.targets.tolist() == [1, 0, 1]
    assert batch.pixel_values.shape == (3, 1, 8, 8)
    assert [float(image.mean()) > 0 for image in batch.pixel_values] == [True, False, True]


def test_predictions_are_those_of_the_model(deterministic):
    """Probabilities are those of the model's own forward pass, in the order of the rows; so is the loss."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = AutoConfig.for_model("vit", patch_size=4, **ImageClassification.shape(context().inputs), **shape)
    model = build.new(ImageClassification, config, LABELS).eval()
    task = ImageClassification(rows(40), context())
    batch = task.batch(np.zeros(40, dtype=int), np.arange(40))
    with torch.no_grad():
        theirs = model(pixel_values=batch.pixel_values, labels=batch.targets)
        assert float(task.loss(model, batch)) == pytest.approx(40 * float(theirs.loss), rel=1e-5)
    predicted = task.predict(model)
    assert predicted.names == LABELS
    assert predicted.targets.tolist() == [0, 1] * 20
    assert predicted.probabilities == pytest.approx(torch.softmax(theirs.logits, dim=-1).numpy(), abs=1e-6)
    assert model.config.id2label == {0: "dark", 1: "light"}


def test_a_row_without_an_image_is_named():
    """The error gives its origin."""
    with pytest.raises(DataError, match="made:9: the image cannot be read"):
        ImageClassification([*rows(2), {"image": b"hello", "label": "dark", "origin": "made:9"}], context())
