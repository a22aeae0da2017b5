from __future__ import annotations

import math

import pandas as pd
import pytest

from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.predictor.model import Predictor


@pytest.fixture
def predictor(tiny, words, tmp_path):
    """A function that saves a tiny model with this head and loads it as a Predictor."""

    def make(head):
        objective, labels = (MaskedLM, []) if head == "text" else (Classification, ["a", "b"])
        inference_config = objective.inference_config(ObjectiveContext(words, 64, 0, None, labels))
        build.save(build.new(objective, tiny(), labels), words, tmp_path / "model", inference_config)
        return Predictor(str(tmp_path / "model"))

    return make


def table(*texts):
    """The texts as MLflow passes them."""
    return pd.DataFrame({"text": list(texts)})


def test_a_classifier_predicts_label_and_score_of_each_text(predictor):
    """One row for each text, in order, over several batches."""
    model, texts = predictor("label"), [f"text {n} {'and more ' * (n % 5)}" for n in range(70)]
    answers = model.predict(table(*texts))
    assert list(answers.columns) == ["label", "score"]
    assert set(answers["label"]) <= {"a", "b"}
    assert answers["score"].between(0.5, 1.0).all()
    alone = pd.concat([model.predict(table(text)) for text in texts], ignore_index=True)
    pd.testing.assert_frame_equal(answers, alone, rtol=1e-5)


def test_a_masked_model_fills_in_masked_tokens(predictor):
    """Other words stay; a text without [MASK] has no score."""
    answers = predictor("text").predict(table("salt and [MASK] flour", "nothing hidden"))
    assert answers["text"][0].startswith("salt and ")
    assert "[MASK]" not in answers["text"][0]
    assert answers["text"][1] == "nothing hidden"
    assert 0 < answers["score"][0] <= 1
    assert math.isnan(answers["score"][1])


def test_a_text_longer_than_the_model_is_cut(predictor):
    """It is no error."""
    assert len(predictor("label").predict(table("many words " * 500))) == 1


def test_no_texts_give_no_predictions(predictor):
    """An empty table in, an empty table out."""
    assert predictor("label").predict(table()).empty
