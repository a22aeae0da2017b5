"""`pretune chat`, with messages from standard input."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cli.app import app
from pretune.config.params import ModelParams
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.finetuning.instruction import Instruction
from pretune.predictor import decoding
from pretune.release import chat
from tests.contracts import samples

SETTINGS = samples.SETTINGS["instruction"] | {"reply_tokens": 12}


@pytest.fixture
def save(words, tmp_path, deterministic):
    """A function that saves the smallest Llama for an objective, with random weights; its folder."""

    def make(objective, *, length=64):
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = build.config_for(ModelParams(type="llama", init=None, config=shape), build.text_shape(words))
        config.initializer_range = 1.0
        settings = Instruction.Settings.model_validate(SETTINGS) if objective is Instruction else None
        facts = objective.inference_config(ObjectiveContext(words, length, 0, settings, ["a", "b"]))
        build.save(build.new(objective, config, ["a", "b"]), words, tmp_path / "model", facts)
        return str(tmp_path / "model")

    return make


def run(*arguments, lines=()):
    """Standard output and error of a command that gets these lines."""
    done = CliRunner().invoke(app, list(arguments), input="".join(f"{line}\n" for line in lines))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout, done.stderr


def test_a_chat_answers_as_predict_does(save):
    """One message: the same text; the next answer depends on the first, /reset forgets it, /system instructs."""
    model = save(Instruction)
    asked, _ = run("predict", model, "--text", "salt?", "--text", "flour?")
    salt, flour = (json.loads(line)["text"] for line in asked.splitlines())
    told, _ = run("predict", model, "--text", "salt?", "--system", "oven")
    instructed = json.loads(told)["text"]
    assert len({salt, flour, instructed}) == 3
    chats, _ = run("chat", model, lines=["salt?", "flour?", "/reset", "flour?", "/system oven", "salt?", "/exit", "x"])
    assert chats.startswith(f"{salt}\n")
    assert chats.endswith(f"\n{flour}\n{instructed}\n")
    second = chats.removeprefix(f"{salt}\n").removesuffix(f"{flour}\n{instructed}\n")
    assert second not in {"", f"{flour}\n"}
    assert run("chat", model, lines=["/rest"])[1].splitlines()[-1].startswith("no command /rest")


def test_an_answer_that_is_stopped_stays_as_far_as_it_got(save):
    """The chat goes on, and the next answer is that of a model that reads the same messages afresh."""
    conversation = chat.Chat(chat.load(save(Instruction)))
    pieces = conversation.ask("salt?")
    got = next(pieces)
    pieces.close()
    assert [turn["content"] for turn in conversation.turns] == ["salt?", got]
    answer = "".join(conversation.ask("flour?"))
    (fresh,) = conversation.answers([{"messages": conversation.turns[:3]}])
    assert answer == fresh["text"]


def test_messages_that_no_longer_fit_are_told(save):
    """The oldest are left out with a warning; a message that is too long by itself is an error, and forgotten."""
    model = save(Instruction, length=40)
    _, errors = run("chat", model, lines=["number 1 is about waves", "number 2 is about flour"])
    assert errors.endswith("warning: the oldest 2 messages were left out: they no longer fit\n")
    conversation = chat.Chat(chat.load(model))
    with pytest.raises(DataError, match=r"76 tokens .* of 28 that are read"):
        next(conversation.ask("waves " * 60))
    assert conversation.turns == []


def test_a_character_is_shown_when_all_its_bytes_are_there(save, monkeypatch):
    """A token may end within one."""
    conversation = chat.Chat(chat.load(save(Instruction)))
    ids = conversation.answers.tokenizer("sea 海 salt", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(decoding.Session, "stream", lambda *_: (token for token in ids))
    pieces = list(conversation.ask("?"))
    assert "".join(pieces) == "sea 海 salt"
    assert len(ids) > sum(map(bool, pieces)) > 3
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_a_thought_is_shown_but_is_no_part_of_the_answer(save, monkeypatch):
    """It would not be rendered in the turns that follow either."""
    conversation = chat.Chat(chat.load(save(Instruction)))
    ids = conversation.answers.tokenizer("<think>salt</think>the sea", add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(decoding.Session, "stream", lambda *_: (token for token in ids))
    shown = "".join(conversation.ask("?"))
    assert conversation.turns[-1]["content"] == "the sea"
    assert shown.startswith("<think>salt")
    assert shown.endswith("\n\nthe sea")


def test_a_model_that_does_not_chat_is_named(save):
    """With what it reads and gives, and the command that uses it."""
    model = save(Classification)
    with pytest.raises(DataError, match="is no chat model: it reads text, pair and gives label, score"):
        chat.load(model)
    with pytest.raises(DataError, match="--system"):
        run("predict", model, "--text", "salt", "--system", "be kind")
