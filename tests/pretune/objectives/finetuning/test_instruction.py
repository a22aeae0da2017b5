from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.data import tokenizer
from pretune.errors import DataError, ParamsError
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.instruction import Instruction, encode
from pretune.predictor import conversation

TALK = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "salt?"},
    {"role": "assistant", "content": "white"},
    {"role": "user", "content": "butter?"},
    {"role": "assistant", "content": "yellow"},
]


@pytest.fixture
def own(words, tmp_path):
    """A tokenizer for this test only: the objective sets its chat template."""
    words.save_pretrained(tmp_path)
    return tokenizer.load(tmp_path)


def context(own, template=None, length=200):
    """The objective's context."""
    return ObjectiveContext(own, length, 0, Instruction.Settings(template=template, reply_tokens=4))


def test_the_loss_is_on_answers_and_their_ends_only(own):
    """Messages of user and system are input only; each answer is predicted with its end token."""
    own.chat_template = conversation.PLAIN
    ids, answered = encode(own, TALK, 200)
    assert own.decode(ids[answered]) == " white[SEP] yellow[SEP]"
    assert own.decode(ids[~answered]).startswith("[CLS]system: be short[SEP]user: salt?[SEP]assistant:")


def test_each_target_follows_its_position(own):
    """In a batch of several conversations of different lengths."""
    task = Instruction([{"messages": TALK}, {"messages": TALK[1:3]}], context(own))
    batch = task.batch([0, 0], [1, 0])
    assert (batch.packed.input_ids[batch.positions + 1] == batch.targets).all()
    assert own.decode(batch.targets) == " white[SEP] white[SEP] yellow[SEP]"
    assert batch.count == sum(answered.sum() for answered in task.answered)


def test_a_cut_conversation_keeps_what_fits(own):
    """Answers beyond the length are left out; without any answer left it is an error."""
    own.chat_template = conversation.PLAIN
    whole, _ = encode(own, TALK, 200)
    cut, answered = encode(own, TALK, len(whole) - 8)
    assert cut.tolist() == whole.tolist()[: len(cut)]
    assert "white" in own.decode(cut[answered])
    with pytest.raises(DataError, match="no row has an answer"):
        Instruction([{"messages": TALK}], context(own, length=5))


def test_every_conversation_has_a_prediction(own):
    """Also one without an answer, whose target is empty; the order of the rows stays."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=len(own), **shape)).eval()
    task = Instruction([{"messages": TALK[1:2]}, {"messages": TALK}], context(own))
    predicted = task.predict(model)
    assert predicted.targets == ["", "yellow"]
    assert len(predicted.predicted) == 2


def test_a_template_in_the_settings_is_saved_with_the_tokenizer(own, tmp_path):
    """It replaces the tokenizer's own, and is loaded with the model."""
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    task = Instruction([{"messages": TALK}], context(own, template))
    assert own.decode(task.texts[0][task.answered[0]]) == "whiteyellow"
    own.save_pretrained(tmp_path / "saved")
    assert tokenizer.load(tmp_path / "saved").chat_template == template


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{% for m in messages %}", ParamsError),  # not closed
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", DataError),  # rewrites
    ],
)
def test_a_template_that_cannot_be_used_is_an_error(own, template, error):
    """With a syntax error, or rendering earlier turns differently once later ones follow."""
    with pytest.raises(error):
        Instruction([{"messages": TALK}], context(own, template))
