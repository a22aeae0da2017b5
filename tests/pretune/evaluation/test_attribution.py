from __future__ import annotations

import pytest
import torch

from pretune.evaluation import attribution
from pretune.models import build
from pretune.objectives.base import Given
from pretune.objectives.classification import Classification
from pretune.predictor.text import Class

TEXT = "waves and salt in the harbour"


@pytest.fixture
def model(tiny, words):
    """A classifier with random weights."""
    facts = Classification.facts(Given(words, 64, 0, None, ["sea", "kitchen"]))
    return Class(build.new(Classification, tiny(), ["sea", "kitchen"]).eval(), words, facts)


def test_pieces_make_up_the_text(model):
    """No character is lost or shown twice; the strongest piece weighs one, for or against."""
    found = attribution.pieces(model, TEXT)
    assert "".join(piece.text for piece in found) == TEXT
    assert max(abs(piece.weight) for piece in found) == pytest.approx(1.0)


def test_characters_of_several_tokens_are_not_repeated(model):
    """Bytes of one character are tokens of their own: their weights are added."""
    text = "salt 海 and 🌊 waves"
    assert "".join(piece.text for piece in attribution.pieces(model, text)) == text


def test_what_is_cut_off_weighs_nothing(model):
    """Beyond the model's length the text is shown, unmarked."""
    text = "salt " * 200
    found = attribution.pieces(model, text)
    assert "".join(piece.text for piece in found) == text
    assert found[-1].weight == 0


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
    found = attribution.pieces(Answers, TEXT)
    assert [piece.text.strip() for piece in found if abs(piece.weight) > 1e-6] == ["salt"]


def test_only_classes_of_texts_are_explained(model):
    """Not what fills in words."""
    assert attribution.explains(model)
    assert not attribution.explains(type("Filled", (), {"gives": {"text": "string"}, "reads": {"text": "string"}}))
