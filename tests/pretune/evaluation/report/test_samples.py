"""Generated texts next to the true ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pretune.config.params import ModelParams
from pretune.evaluation.report import samples
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.language_modelling import LanguageModelling
from pretune.predictor.text import CONTINUATION, Continued

TEXTS = [f"number {row} is about waves and salt, flour and butter, 海 and the harbour " * (row + 1) for row in range(9)]
ROWS = [{"text": text} for text in TEXTS]


@pytest.fixture
def writer(words, deterministic):
    """A function from the length of the input to the smallest GPT that answers."""

    def make(length):
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = build.config_for(ModelParams(type="gpt2", init=None, config=shape), LanguageModelling.shape(words))
        facts = LanguageModelling.inference_config(ObjectiveContext(words, length, 0, None))
        return Continued(build.new(LanguageModelling, config).eval(), words, facts)

    return make


def test_generated_texts_are_shown_as_they_are(forms):
    """Rows evenly spaced from the first to the last, each once; nothing is generated again."""
    predictions = forms["texts"]()
    rows = ROWS * 6
    collected = samples.collect(predictions, None, rows)
    assert [sample.row for sample in collected] == [0, 11, 21, 32, 42, 53]
    assert [sample.input for sample in collected] == [rows[sample.row]["text"] for sample in collected]
    assert [(sample.true, sample.predicted) for sample in collected] == [
        (predictions.targets[sample.row], predictions.predicted[sample.row]) for sample in collected
    ]


def test_the_checkpoint_as_it_came_answers_the_same_rows(forms):
    """Its text for each sample, if it was asked."""
    predictions = forms["texts"]()
    base = replace(predictions, predicted=[f"before {row}" for row in range(60)])
    collected = samples.collect(predictions, None, ROWS * 6, base)
    assert [sample.before for sample in collected] == [f"before {sample.row}" for sample in collected]


def test_the_input_of_a_conversation_ends_before_its_last_answer(forms):
    """That answer is the true text."""
    turns = [("system", "be kind"), ("user", "salt?"), ("assistant", "yes"), ("user", "oven?"), ("assistant", "no")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    collected = samples.collect(forms["texts"](), None, [row] * 60)
    assert {sample.input for sample in collected} == {"be kind\nsalt?\nyes\noven?"}


@pytest.mark.parametrize("length", [8, 40, 64])
def test_a_language_model_continues_the_first_half(writer, words, forms, length):
    """The true continuation is cut at the length of the model's; the same each time."""
    model = writer(length)
    collected = samples.collect(forms["likelihoods"](), model, ROWS)
    assert collected == samples.collect(forms["likelihoods"](), model, ROWS)
    for sample in collected:
        assert TEXTS[sample.row].startswith(sample.input + sample.true)
        of_input, of_true = (
            len(words(text, add_special_tokens=False)["input_ids"]) for text in (sample.input, sample.true)
        )
        assert 1 <= of_input <= max(1, length - CONTINUATION)
        assert 1 <= of_true <= CONTINUATION
        (answer,) = model([{"text": sample.input}])
        assert answer["text"].endswith(sample.predicted)


def test_few_rows_and_short_texts_have_few_samples(writer, forms):
    """Each row once; a text of one token has no half to continue."""
    collected = samples.collect(forms["likelihoods"](), writer(64), [*ROWS[:1], {"text": "x"}])
    assert [sample.row for sample in collected] == [0]


@pytest.mark.parametrize("name", ["classes", "many_labels", "numbers", "tags", "answers"])
def test_models_that_generate_no_text_have_no_samples(forms, name):
    """Classes, numbers, tags and extracted answers."""
    assert samples.collect(forms[name](), None, ROWS) == []
