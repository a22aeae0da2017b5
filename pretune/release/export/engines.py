"""Exported models as their users run them: plain transformers, and llama.cpp."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from pretune.data.rows import Row
from pretune.predictor.chat import end_of_turn
from pretune.predictor.conversation import stop
from pretune.release.export import llama_cpp

NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
Steps = list[tuple[int, dict[int, float]]]  # the token of each step, and the log-probabilities of the likeliest


class Engine(Protocol):
    """An exported model as its users run it."""

    def render(self, row: Row) -> str | None:
        """A conversation up to the answer, in the template; None if the template cannot write it."""

    def tokens(self, text: str, *, chat: bool) -> list[int]:
        """The ids of a prompt. chat: a rendered conversation, else a plain text."""

    def complete(self, ids: Sequence[int], number: int, top: int) -> Steps:
        """At most `number` tokens after `ids`, by greedy search; the token that ends a text is the last."""


class _Transformers:
    """Plain transformers, on a folder; the weights are read as float32, so that only they are compared."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def render(self, row: Row) -> str | None:
        asked = openai_request(row)
        try:
            text = self.tokenizer.apply_chat_template(
                asked["messages"], asked.get("tools"), tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError, LookupError):
            return None
        return str(text)

    def tokens(self, text: str, *, chat: bool) -> list[int]:
        return token_ids(self.tokenizer, text, chat=chat)

    def complete(self, ids: Sequence[int], number: int, top: int) -> Steps:
        tensor = torch.tensor([list(ids)])
        with torch.inference_mode():
            output = self.model.generate(
                tensor, attention_mask=torch.ones_like(tensor), max_new_tokens=number, do_sample=False,
                output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        steps = []
        for token, logits in zip(output.sequences[0, len(ids) :].tolist(), output.logits, strict=True):
            best = torch.log_softmax(logits[0].float(), dim=-1).topk(min(top, logits.shape[-1]))
            steps.append((token, dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))))
        return steps


@contextmanager
def transformers(folder: Path, base: Path | str | None = None) -> Iterator[Engine]:
    """The model in a folder; with `base`, a folder or NAME@REVISION, the adapters in it on that model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own calls, and temperatures of a checkpoint that greedy search ignores
        tokenizer = AutoTokenizer.from_pretrained(folder, **NO_CODE)
        name, revision = located(base or folder)
        options = NO_CODE | ({"revision": revision} if revision else {})
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **options)
        if base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, folder)
            set_ends(model.generation_config, tokenizer)
        yield _Transformers(model.eval(), tokenizer)


class _LlamaCpp:
    """llama.cpp, on a GGUF file: prompts in its own rendering of the template, and in its own tokens."""

    def __init__(self, server: llama_cpp.LlamaCpp) -> None:
        self.server, self.complete = server, server.complete

    def render(self, row: Row) -> str | None:
        return self.server.render(openai_request(row))

    def tokens(self, text: str, *, chat: bool) -> list[int]:  # noqa: ARG002 - the file says what begins a text
        return self.server.tokens(text)


@contextmanager
def llama(path: Path, context: int) -> Iterator[Engine]:
    """A GGUF file in llama.cpp. context: tokens of a prompt and its continuation."""
    with llama_cpp.serve(path, context=context, threads=torch.get_num_threads()) as server:
        yield _LlamaCpp(server)


def openai_request(row: Row) -> dict[str, Any]:
    """A conversation as a request to an OpenAI-compatible server."""
    names = {"role": "role", "content": "content", "reasoning": "reasoning_content", "tool_call_id": "tool_call_id"}
    messages = []
    for message in row["messages"]:
        asked = {theirs: message[ours] for ours, theirs in names.items() if ours in message}
        if "tool_calls" in message:
            calls = json.loads(message["tool_calls"])
            functions = [
                call["function"] | {"arguments": json.dumps(call["function"].get("arguments", {}), ensure_ascii=False)}
                for call in calls
            ]
            asked["tool_calls"] = [
                call | {"type": "function", "function": function}
                for call, function in zip(calls, functions, strict=True)
            ]
        messages.append(asked)
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in _listed(row)]
    return {"messages": messages} | ({"tools": tools} if tools else {})


def _listed(row: Row) -> list[dict[str, Any]]:
    return list(json.loads(row.get("tools") or "[]"))


def token_ids(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """The ids of a rendered conversation, or of a text without the token that would end it."""
    ids = list(tokenizer(text, add_special_tokens=not chat)["input_ids"])
    ended = not chat and len(ids) > 1 and ids[-1] == end_of_turn(tokenizer)
    return ids[:-1] if ended else ids


def located(source: Path | str) -> tuple[str, str | None]:
    """The name that transformers takes for a folder, or for NAME@REVISION of the hub, and the revision."""
    if isinstance(source, Path):
        return str(source.resolve()), None
    name, _, revision = source.partition("@")
    return name, revision


def set_ends(config: Any, tokenizer: Any) -> None:
    """Servers stop at what ends a turn, because the configuration of generation says so."""
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    ends = [end_of_turn(tokenizer), *stop(tokenizer), *(token for token in known if token is not None)]
    config.eos_token_id = list(dict.fromkeys(ends)) if len(set(ends)) > 1 else ends[0]
    config.pad_token_id = tokenizer.pad_token_id
