from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pretune.data import tokenizer
from pretune.errors import DataError
from pretune.models import heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.instruction import Instruction

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


def context(own, length=200, **changed):
    """The objective's context."""
    settings = {"template": None, "reply_tokens": 4, "loss": "all", "reasoning": "trained", "too_long": "cut"}
    return ObjectiveContext(own, length, 0, Instruction.Settings(**settings | changed))


def learnt(task):
    """The text that each sample teaches."""
    words = task.context.inputs
    return [words.decode(sample.ids[sample.weights > 0]) for sample in task.conversations.samples]


def model_of(own):
    """A tiny decoder."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=len(own), **shape)).eval()


def test_each_target_follows_its_position(own):
    """In a batch of several conversations of different lengths, only answers and their ends are targets."""
    task = Instruction([{"messages": TALK}, {"messages": TALK[1:3]}], context(own))
    batch = task.batch([0, 0], [1, 0])
    assert (batch.packed.input_ids[batch.positions + 1] == batch.targets).all()
    assert own.decode(batch.targets) == " white[SEP] white[SEP] yellow[SEP]"
    assert batch.count == sum((sample.weights > 0).sum() for sample in task.conversations.samples)


def test_a_weight_scales_the_loss_and_its_count(own):
    """The loss of a conversation is the weighted mean over the tokens of its answers."""
    whole = Instruction([{"messages": TALK}], context(own))
    messages = [*TALK[:2], TALK[2] | {"weight": 0.5}, *TALK[3:]]
    weighted = Instruction([{"messages": messages}], context(own))
    model, batch = model_of(own), weighted.batch([0], [0])
    heads.prepare(model)
    each = [float(whole.loss(model, one).detach()) for one in _single(whole.batch([0], [0]))]
    factors = batch.weights.tolist()
    assert factors == [0.5] * factors.count(0.5) + [1.0] * factors.count(1.0)
    assert len(set(factors)) == 2
    assert batch.count == sum(factors)
    expected = sum(factor * loss for factor, loss in zip(factors, each, strict=True))
    assert float(weighted.loss(model, batch).detach()) == pytest.approx(expected, rel=1e-5)


def _single(batch):
    """The batch once for each of its targets."""
    for index in range(len(batch.targets)):
        yield replace(batch, positions=batch.positions[[index]], targets=batch.targets[[index]])


def test_what_is_learnt_follows_the_settings(own):
    """The last answer only; a message of weight 0 is input; thoughts too, where they are masked."""
    assert learnt(Instruction([{"messages": TALK}], context(own, loss="last"))) == [" yellow[SEP]"]
    silent = [*TALK[:4], TALK[4] | {"weight": 0.0}]
    assert learnt(Instruction([{"messages": silent}], context(own))) == [" white[SEP]"]
    thoughtful = [TALK[1], TALK[2] | {"reasoning": "a crystal"}]
    for reasoning, text in (
        ("trained", " <think>\na crystal\n</think>\n\nwhite[SEP]"),
        ("masked", " <think>\n\n</think>\n\nwhite[SEP]"),
    ):
        assert learnt(Instruction([{"messages": thoughtful}], context(own, reasoning=reasoning))) == [text]


def test_conversations_that_are_too_long_are_told(own):
    """Cut, dropped or split between turns: rows and tokens are counted, and rows with nothing to learn left out."""
    rows = [{"messages": TALK}, {"messages": TALK[1:3]}]
    sizes = [len(sample.ids) for sample in Instruction(rows, context(own)).conversations.samples]
    length = sizes[0] - 14
    long = f"1 of 2 rows are longer than finetune.sequence_length {length}"
    expected = {
        "cut": ([" white[SEP]", " white[SEP]"], f"{long}: 14 of {sum(sizes)} tokens are cut"),
        "drop": ([" white[SEP]"], f"{long} and left out: {sizes[0]} of {sum(sizes)} tokens"),
        "split": ([" white[SEP]", " yellow[SEP]", " white[SEP]"], f"{long} and split between turns"),
    }
    for too_long, (texts, warning) in expected.items():
        task = Instruction(rows, context(own, length, too_long=too_long))
        assert learnt(task) == texts
        assert max(len(sample.ids) for sample in task.conversations.samples) <= length
        assert task.told()[0] == [warning]
    second = task.conversations.samples[1]
    assert own.decode(second.ids).startswith("[CLS]system: be short[SEP]user: butter?")


def test_rows_with_nothing_to_learn_are_left_out_and_told(own):
    """Their answers lie beyond the length; without any answer left it is an error."""
    short = Instruction([{"messages": TALK[1:3]}], context(own))
    length = len(short.conversations.samples[0].ids)
    task = Instruction([{"messages": TALK}, {"messages": TALK[1:3]}], context(own, length))
    assert len(task) == 1
    warnings, figures = task.told()
    assert warnings[-1] == f"1 of 2 rows have nothing to learn within {length} tokens and are left out"
    assert [figures[f"conversations_{name}"] for name in ("rows", "samples", "empty_rows")] == [2, 1, 1]
    with pytest.raises(DataError, match="no row has an answer"):
        len(Instruction([{"messages": TALK}], context(own, length=5)))


def test_every_conversation_has_a_prediction(own):
    """Also one without an answer, whose target is empty; the order of the rows stays."""
    task = Instruction([{"messages": TALK[1:2]}, {"messages": TALK}], context(own))
    predicted = task.predict(model_of(own))
    assert predicted.targets == ["", "yellow"]
    assert len(predicted.predicted) == 2


def test_a_template_in_the_settings_is_saved_with_the_tokenizer(own, tmp_path):
    """It replaces the tokenizer's own, and is loaded with the model. Where it ends no answer, a token does."""
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    task = Instruction([{"messages": TALK}], context(own, template=template))
    assert learnt(task) == ["white[SEP]", "yellow[SEP]"]
    own.save_pretrained(tmp_path / "saved")
    assert tokenizer.load(tmp_path / "saved").chat_template == template


def test_rows_that_a_template_refuses_are_an_error(own):
    """With their number, the reason and the first of them."""
    template = (
        "{% for m in messages %}{{ raise_exception('no salt') if 'salt' in m.content else m.content }}{% endfor %}"
    )
    rows = [{"messages": TALK, "origin": "talks.jsonl:1"}, {"messages": TALK[3:], "origin": "talks.jsonl:2"}]
    with pytest.raises(DataError, match=r"1 of 2 rows: .*no salt \(the first: talks.jsonl:1\)"):
        len(Instruction(rows, context(own, template=template)))
