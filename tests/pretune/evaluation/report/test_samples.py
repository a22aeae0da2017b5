"""What models write on held-out rows, beside what stands there."""

from __future__ import annotations

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
    """A function from the length that is read to the smallest GPT that answers."""

    def make(length):
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = build.config_for(ModelParams(type="gpt2", init=None, config=shape), LanguageModelling.shape(words))
        facts = LanguageModelling.inference_config(ObjectiveContext(words, length, 0, None))
        return Continued(build.new(LanguageModelling, config).eval(), words, facts)

    return make


def test_texts_that_were_written_are_shown_as_they_are(forms):
    """Rows spread evenly from the first to the last, each once; nothing is generated anew."""
    found = forms["texts"]()
    shown = samples.samples(found, None, ROWS * 6)
    assert [each.row for each in shown] == [0, 11, 21, 32, 42, 53]
    assert [each.asked for each in shown] == [(ROWS * 6)[each.row]["text"] for each in shown]
    assert [(each.wanted, each.said) for each in shown] == [
        (found.targets[each.row], found.predicted[each.row]) for each in shown
    ]


def test_a_conversation_is_asked_up_to_its_last_answer(forms):
    """That answer stands beside what the model says, not before it."""
    said = [("system", "be kind"), ("user", "salt?"), ("assistant", "yes"), ("user", "oven?"), ("assistant", "no")]
    row = {"messages": [{"role": role, "content": content} for role, content in said]}
    assert {each.asked for each in samples.samples(forms["texts"](), None, [row] * 60)} == {
        "be kind\nsalt?\nyes\noven?"
    }


@pytest.mark.parametrize("length", [8, 40, 64])
def test_a_language_model_goes_on_from_the_first_half(writer, words, forms, length):
    """Beside what really follows, cut where the model's own text is; the same each time."""
    model = writer(length)
    shown = samples.samples(forms["likelihoods"](), model, ROWS)
    assert shown == samples.samples(forms["likelihoods"](), model, ROWS)
    for each in shown:
        assert TEXTS[each.row].startswith(each.asked + each.wanted)
        asked, wanted = (len(words(text, add_special_tokens=False)["input_ids"]) for text in (each.asked, each.wanted))
        assert 1 <= asked <= max(1, length - CONTINUATION)
        assert 1 <= wanted <= CONTINUATION
        (whole,) = model([{"text": each.asked}])
        assert whole["text"].endswith(each.said)


def test_few_rows_and_short_texts_have_few_samples(writer, forms):
    """Each row once; a text of one token has no half to go on from."""
    model, found = writer(64), forms["likelihoods"]()
    assert [each.row for each in samples.samples(found, model, [*ROWS[:1], {"text": "x"}])] == [0]


@pytest.mark.parametrize("name", ["classes", "many_labels", "numbers", "tags", "answers"])
def test_what_does_not_write_has_no_samples(forms, name):
    """Classes, numbers, tags and extracted answers."""
    assert samples.samples(forms[name](), None, ROWS) == []
