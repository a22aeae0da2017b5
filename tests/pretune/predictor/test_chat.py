from __future__ import annotations

import pytest

from pretune.config.params import ModelParams
from pretune.data import tokenizer
from pretune.models import build
from pretune.objectives.finetuning.instruction import Instruction
from pretune.predictor import conversation, decoding
from pretune.predictor.chat import Reply


@pytest.fixture
def replier(words, deterministic):
    """The smallest GPT that answers conversations of at most 40 tokens with at most 12."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = build.config_for(ModelParams(type="gpt2", init=None, config=shape), build.text_shape(words))
    config.initializer_range = 0.5
    return Reply(build.new(Instruction, config).eval(), words, {"length": 40, "reply_tokens": 12})


def said(text):
    """A conversation of one message."""
    return {"messages": [{"role": "user", "content": text}]}


def test_a_conversation_that_is_cut_is_counted(replier, caplog, monkeypatch):
    """Those that leave no room for an answer are read from their end, with a warning; each gets an answer."""
    rows = [said("salt"), said("waves " * 30 + "harbour"), said("flour"), said("butter " * 50)]
    replies = replier(rows)
    assert caplog.messages == ["warning: 2 of 4 conversations are longer than 28 tokens: only their ends are read"]
    assert replies == [replier([row])[0] for row in rows]
    assert all(reply["text"] for reply in replies)
    read = []
    monkeypatch.setattr(decoding, "generate", lambda _, prompts, *__: read.extend(prompts) or [[] for _ in prompts])
    replier(rows)
    assert read == [replier.prompt(row)[-28:] for row in rows]


def test_an_answer_ends_where_the_checkpoint_says(replier):
    """Its generation_config may name several tokens besides the end of a turn, as those of Llama 3 do."""
    (whole,) = replier([said("salt")])
    prompt = replier.prompt(said("salt"))
    (ids,) = decoding.generate(replier.model, [prompt], [12], [])
    replier.model.generation_config.eos_token_id = [ids[2], 3]
    (short,) = replier([said("salt")])
    assert len(short["text"]) < len(whole["text"])
    assert whole["text"].startswith(short["text"])


def test_an_answer_comes_without_its_thought(replier):
    """Whether the prompt or the answer opens it; a template's end of a turn ends it."""
    words = replier.tokenizer
    for text in ("<think>salt</think>\n\nwhite[SEP]", "salt</think>tide</think>white[SEP]", "[CLS]white [SEP]"):
        assert replier.text(words(text, add_special_tokens=False)["input_ids"]) == "white"


def test_an_answer_ends_where_the_template_ends_a_turn(words, tmp_path):
    """Though the tokenizer ends texts by another token."""
    words.save_pretrained(tmp_path)
    own = tokenizer.load(tmp_path)
    own.chat_template = "{% for m in messages %}{{ m.content }}[MASK]\n{% endfor %}"
    assert conversation.stop(own) == sorted([own.sep_token_id, own.mask_token_id])
    own.chat_template = "{% for m in messages %}{{ m.content }} end\n{% endfor %}"
    assert conversation.stop(own) == [own.sep_token_id]
