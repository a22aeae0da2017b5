from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.data import tokenizer
from pretune.errors import DataError, ParamsError
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.instruction import Instruction, encode
from pretune.predictor import chat

TALK = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "salt?"},
    {"role": "assistant", "content": "white"},
    {"role": "user", "content": "butter?"},
    {"role": "assistant", "content": "yellow"},
]


@pytest.fixture
def own(words, tmp_path):
    """A tokenizer of this test's own: the objective gives it a template."""
    words.save_pretrained(tmp_path)
    return tokenizer.load(tmp_path)


def told(own, template=None, length=200):
    """What the objective is told."""
    return ObjectiveContext(own, length, 0, Instruction.Settings(template=template, reply_tokens=4))


def test_the_loss_is_on_answers_and_their_ends_only(own):
    """What the user and the system say is read; each answer is predicted with the token that ends it."""
    own.chat_template = chat.PLAIN
    ids, answered = encode(own, TALK, 200)
    assert own.decode(ids[answered]) == "white[SEP]yellow[SEP]"
    assert own.decode(ids[~answered]).startswith("[CLS]system: be short[SEP]user: salt?[SEP]assistant: ")


def test_each_target_follows_its_position(own):
    """In a batch of several conversations of different lengths."""
    task = Instruction([{"messages": TALK}, {"messages": TALK[1:3]}], told(own))
    batch = task.batch([0, 0], [1, 0])
    assert (batch.packed.input_ids[batch.positions + 1] == batch.targets).all()
    assert own.decode(batch.targets) == "white[SEP]white[SEP]yellow[SEP]"
    assert batch.count == sum(each.sum() for each in task.answered)


def test_a_cut_conversation_keeps_what_fits(own):
    """Its last answers do not train; where no answer is left at all, it is a mistake."""
    own.chat_template = chat.PLAIN
    whole, _ = encode(own, TALK, 200)
    cut, answered = encode(own, TALK, len(whole) - 8)
    assert cut.tolist() == whole.tolist()[: len(cut)]
    assert "white" in own.decode(cut[answered])
    with pytest.raises(DataError, match="no row has an answer"):
        Instruction([{"messages": TALK}], told(own, length=5))


def test_every_conversation_has_a_prediction_beside_it(own):
    """Also one that nobody has answered: what is wanted there is nothing, and later rows keep their places."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=len(own), **shape)).eval()
    task = Instruction([{"messages": TALK[1:2]}, {"messages": TALK}], told(own))
    found = task.predict(model)
    assert found.targets == ["", "yellow"]
    assert len(found.predicted) == 2


def test_a_template_of_ones_own_is_saved_with_the_tokenizer(own, tmp_path):
    """It comes before the tokenizer's own, and is there when the model is loaded."""
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    task = Instruction([{"messages": TALK}], told(own, template))
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
def test_a_template_that_cannot_be_used_is_a_mistake(own, template, error):
    """Broken, or one that writes earlier turns otherwise once later ones follow."""
    with pytest.raises(error):
        Instruction([{"messages": TALK}], told(own, template))
