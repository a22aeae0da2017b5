from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from pretune.evaluation.report import attribution
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.predictor.images import ImageClass
from pretune.predictor.pixels import Pipeline
from pretune.predictor.text import Class

TEXT = "waves and salt in the harbour"


@pytest.fixture
def model(tiny, words):
    """A classifier with random weights."""
    facts = Classification.inference_config(ObjectiveContext(words, 64, 0, None, ["sea", "kitchen"]))
    return Class(build.new(Classification, tiny(), ["sea", "kitchen"]).eval(), words, facts)


def test_pieces_make_up_the_text(model):
    """No character is lost or shown twice; the strongest piece weighs one, for or against."""
    pieces = attribution.text_pieces(model, TEXT)
    assert "".join(piece.text for piece in pieces) == TEXT
    assert max(abs(piece.weight) for piece in pieces) == pytest.approx(1.0)


def test_characters_of_several_tokens_are_not_repeated(model):
    """Bytes of one character are tokens of their own: their weights are added."""
    text = "salt 海 and 🌊 waves"
    assert "".join(piece.text for piece in attribution.text_pieces(model, text)) == text


def test_truncated_text_weighs_nothing(model):
    """Beyond the model's length the text is shown, unmarked."""
    text = "salt " * 200
    pieces = attribution.text_pieces(model, text)
    assert "".join(piece.text for piece in pieces) == text
    assert pieces[-1].weight == 0


def test_the_word_that_decides_is_found(model, words):
    """A class that depends on one token only: that token has all the weight."""
    token = words(" salt", add_special_tokens=False)["input_ids"][0]
    table = model.model.get_input_embeddings()

    class OneWord(torch.nn.Module):
        """Logits that follow from how near any token is to that one."""

        def __init__(self):
            super().__init__()
            self.embeddings = table

        def get_input_embeddings(self):
            return self.embeddings

        def forward(self, input_ids, attention_mask):
            near = (self.embeddings(input_ids) * self.embeddings.weight[token].detach()).sum(dim=-1)
            score = (near * (input_ids == token)).sum(dim=1)
            return type("Output", (), {"logits": torch.stack([score, -score], dim=1)})

    class Answers:
        """What attribution needs of a predictor."""

        tokenizer, encoded = words, model.encoded

    Answers.model = OneWord()
    pieces = attribution.text_pieces(Answers, TEXT)
    assert [piece.text.strip() for piece in pieces if abs(piece.weight) > 1e-6] == ["salt"]


def test_only_classes_of_single_texts_and_images_are_attributed(model):
    """Not those of pairs of texts, and not the output of a masked language model."""
    assert attribution.attribute(model, {"text": TEXT}) == attribution.text_pieces(model, TEXT)
    assert attribution.attribute(model, {"text": TEXT, "pair": TEXT}) is None
    filled = type("Filled", (), {"gives": {"text": "string"}, "reads": {"text": "string"}})
    assert attribution.attribute(filled, {"text": TEXT}) is None


def png(array):
    """The bytes of a PNG file with these pixels."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


class OnePixel(torch.nn.Module):
    """The second class, with a probability that grows with the brightness of one pixel."""

    device = torch.device("cpu")

    def __init__(self, row, column):
        super().__init__()
        self.row, self.column = row, column

    def forward(self, pixel_values):
        light = pixel_values[:, :, self.row, self.column].mean(dim=1)
        return type("Output", (), {"logits": torch.stack([torch.zeros_like(light), light + 3], dim=1)})


@pytest.mark.parametrize(("size", "channels", "cells"), [(8, 1, 8), (8, 3, 8), (64, 3, 32), (70, 1, 24)])
def test_the_pixel_that_decides_is_found(size, channels, cells):
    """All the weight is in its cell; a cell is a pixel, or a square of them where there are too many."""
    answers = ImageClass(OnePixel(5, 2), Pipeline(size, [0.5] * channels, [0.25] * channels), {})
    shape = (size, size, 3) if channels == 3 else (size, size)
    pixels = np.random.default_rng(0).integers(100, 200, shape, dtype=np.uint8)
    weights = np.array(attribution.attribute(answers, {"image": png(pixels)}))
    assert weights.shape == (cells, cells)
    side = -(-size // cells)
    assert weights[5 // side, 2 // side] == pytest.approx(1.0)
    assert np.abs(weights).sum() == pytest.approx(1.0)


def test_a_black_image_has_nothing_to_mark():
    """It equals the baseline: all weights are 0, and none is not a number."""
    answers = ImageClass(OnePixel(1, 1), Pipeline(4, [0.0], [1.0]), {})
    assert attribution.image_cells(answers, png(np.zeros((4, 4), dtype=np.uint8))) == [[0.0] * 4] * 4


def test_the_attribution_of_a_vision_transformer_is_the_same_each_time(deterministic):
    """The smallest ViT: weights from -1 to 1 for every pixel, the same twice."""
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **shape)
    answers = ImageClass(ViTForImageClassification(config).eval(), Pipeline(8, [0.5], [0.5]), {})
    image = png(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    weights = attribution.image_cells(answers, image)
    assert np.abs(weights).max() == pytest.approx(1.0)
    assert weights == attribution.image_cells(answers, image)
