"""Conversations as chat templates want them.

Templates disagree on the shape of messages: content as text or as parts, arguments of calls as objects or as JSON,
under which name a thought stands, whether there is a system role. `render` finds out once per template what is
written and what is dropped, and passes messages in the shape that is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

Row = dict[str, Any]

PLAIN = (  # for tokenizers without a chat template
    "{{ bos_token or cls_token }}"
    "{% for message in messages %}"
    "{{ message['role'] }}: {{ message['content'] }}{{ eos_token or sep_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TODAY = date(
    2024, 7, 26
)  # what templates that write the date get, the one that Llama 3 falls back to: it never changes
THINK = "<think>\n{}\n</think>\n\n"  # a thought, for templates that have no place for it
BROKEN = (  # what a template raises, by itself or by a filter, an operator or `range(10**9)`, which the sandbox refuses
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
CLOSINGS = ("</think>", "[/THINK]", "<|END_THINKING|>", "<channel|>", "<|channel|>final<|message|>")  # of thoughts
CALL_ID = re.compile(r"[A-Za-z0-9]{9}")  # what Mistral's templates take


class ConversationError(ValueError):
    """A chat template cannot write a conversation, or has an error itself."""


@dataclass(frozen=True)
class Dialect:
    """The shape of messages that a chat template writes completely.

    listed: no tools are an empty list. parts: content is a list of parts, not a text. system: there is a system role;
    else it goes before the first message of the user. arguments: of a call are an object, not JSON. silent: content
    beside calls that have none. reasoning: `field` (of a message), `part` (of its content), or `text` (before its
    content). short_ids: ids of calls are nine letters and digits. end: what is written after an answer to end it.
    """

    listed: bool
    parts: bool
    system: bool
    arguments: bool
    silent: str | None
    reasoning: str
    short_ids: bool
    end: str


def render(tokenizer: Any, messages: list[Row], tools: str | list[Row] | None = None, **options: Any) -> str:
    """The conversation in the tokenizer's chat template, or in PLAIN.

    messages: as in data/rows.py. tools: a list of schemas, or its JSON. options: of the template, as
    add_generation_prompt. Raises ConversationError.
    """
    return render_spans(tokenizer, messages, tools, **options)[0]


def render_spans(
    tokenizer: Any, messages: list[Row], tools: str | list[Row] | None = None, **options: Any
) -> tuple[str, list[tuple[int, int]] | None]:
    """As `render`; besides, the spans that the template marks as generated, in characters, None if it marks none."""
    schemas = _schemas(tools) or None
    template = template_of(tokenizer, schemas)
    return _write(tokenizer, template, messages, _dialect(tokenizer, template), schemas, **options)


def set_template(tokenizer: Any, template: str | None) -> None:
    """Give the tokenizer this chat template; with None it keeps its own, or gets PLAIN if it has none."""
    tokenizer.chat_template = template or tokenizer.chat_template or PLAIN


def end(tokenizer: Any) -> str:
    """What the chat template writes after an answer to end it, "" if it writes nothing."""
    return _dialect(tokenizer, template_of(tokenizer)).end


def stop(tokenizer: Any) -> list[int]:
    """The tokens after which an answer is complete: the tokenizer's, and the last that the template ends it by."""
    own = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    last = tokenizer(end(tokenizer), add_special_tokens=False)["input_ids"][-1:]
    return sorted({int(own), *(token for token in last if token in tokenizer.added_tokens_decoder)})


def without_thought(text: str) -> str:
    """A generated text without the thought before its answer."""
    return text[max((text.rfind(mark) + len(mark) for mark in CLOSINGS if mark in text), default=0) :]


def template_of(tokenizer: Any, tools: list[Row] | None = None) -> str:
    """The template as text, with TODAY's date in it."""
    if not tokenizer.chat_template:
        return PLAIN
    template = tokenizer.get_chat_template(tools=tools)
    return re.sub(r"""strftime_now\((['"])(.*?)\1\)""", lambda call: repr(TODAY.strftime(call[2])), template)


def _schemas(tools: str | list[Row] | None) -> list[Row]:
    try:
        listed = json.loads(tools) if isinstance(tools, str) else tools or []
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise ConversationError(f"tools are no list of schemas, nor its JSON: {tools!r:.100}")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in listed]


def _write(
    tokenizer: Any, template: str, messages: list[Row], dialect: Dialect, tools: list[Row] | None, **options: Any
) -> tuple[str, list[tuple[int, int]] | None]:
    marked = re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None
    try:
        texts, spans = render_jinja_template(
            [_shaped(messages, dialect, template)],
            tools or ([] if dialect.listed else None),
            chat_template=template,
            return_assistant_tokens_mask=marked,
            **(_ends_of_text(tokenizer) | options),
        )
    except BROKEN as error:
        raise ConversationError(f"the chat template cannot write this conversation: {error}") from None
    return str(texts[0]), spans[0] if marked else None


def _ends_of_text(tokenizer: Any) -> Row:
    """The special tokens, by name; templates add up `bos_token` and `eos_token` without asking for them."""
    tokens = dict(tokenizer.special_tokens_map)
    return {"bos_token": tokens.get("cls_token", ""), "eos_token": tokens.get("sep_token", "")} | tokens


# --- the shape of messages ---


def _shaped(messages: Iterable[Row], dialect: Dialect, template: str) -> list[Row]:
    """The messages in the shape that the template writes."""
    turns = [dict(message) for message in messages]
    if "developer" not in template:
        turns = [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in turns]
    turns = _instructed(turns, dialect.system)
    _identify(turns, short=dialect.short_ids)
    return [_message(turn, dialect) for turn in turns]


def _instructed(turns: list[Row], system: bool) -> list[Row]:
    """Several instructions at the beginning as one; before the first message of the user if there is no system role."""
    count = next((index for index, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    instruction = "\n\n".join(turn["content"] for turn in turns[:count])
    if not count or (system and count == 1):
        return turns
    if system or count == len(turns) or turns[count]["role"] != "user":
        return [{"role": "system", "content": instruction}, *turns[count:]]
    first = turns[count]
    return [first | {"content": f"{instruction}\n\n{first['content']}"}, *turns[count + 1 :]]


def _identify(turns: list[Row], *, short: bool) -> None:
    """Give each call an id, and each result the id and the function of its call, where they lack, in their order."""
    waiting: list[tuple[str, str]] = []  # calls without a result: id, function
    number = 0
    for turn in turns:
        if turn.get("tool_calls"):
            calls = turn["tool_calls"]
            turn["tool_calls"] = calls = json.loads(calls) if isinstance(calls, str) else [dict(call) for call in calls]
            for call in calls:
                number += 1
                call["id"] = _id(call.get("id") or f"call{number:05}", short=short)
            waiting = [(call["id"], call["function"]["name"]) for call in calls]
        elif turn["role"] == "tool":
            named = turn.get("tool_call_id")
            known = dict(waiting)
            identity = _id(named, short=short) if named else next(iter(known), None)
            if identity:
                turn["tool_call_id"] = identity
                turn.setdefault("name", known.get(identity, ""))
            waiting = [(one, name) for one, name in waiting if one != identity]


def _id(identity: str, *, short: bool) -> str:
    if short and not CALL_ID.fullmatch(identity):
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:9]
    return identity


def _message(turn: Row, dialect: Dialect) -> Row:
    """One message: only with the keys that it has, since templates ask whether a key is there."""
    content, thought = turn.get("content") or "", turn.get("reasoning")
    shaped = {name: turn[name] for name in ("role", "tool_call_id", "name") if turn.get(name)}
    if thought and dialect.reasoning == "text":
        content = THINK.format(thought) + content
    if turn.get("tool_calls"):
        shaped["tool_calls"] = [_call(call, as_object=dialect.arguments) for call in turn["tool_calls"]]
        content = content or dialect.silent
    if content is not None and (dialect.parts or (thought and dialect.reasoning == "part")):
        thoughts = [{"type": "thinking", "thinking": thought}] if thought and dialect.reasoning == "part" else []
        content = [*thoughts, {"type": "text", "text": content}]
    if thought and dialect.reasoning == "field":
        shaped |= {"reasoning_content": thought, "thinking": thought, "reasoning": thought}
    return shaped | {"content": content}


def _call(call: Row, *, as_object: bool) -> Row:
    function = dict(call["function"])
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    function["arguments"] = arguments if as_object else json.dumps(arguments, ensure_ascii=False)
    return call | {"type": "function", "function": function}


# --- what a template writes ---

ASK = {"role": "user", "content": "wombat"}
INSTRUCT = {"role": "system", "content": "quokka"}
ANSWER = {"role": "assistant", "content": "numbat"}
THOUGHT = ANSWER | {"reasoning": "quokka"}
CALL: list[Row] = [
    {"role": "assistant", "content": "", "tool_calls": json.dumps([
        {"id": "call_1", "function": {"name": "numbat", "arguments": {"quokka": "dingo"}}}
    ])},
    {"role": "tool", "content": "possum", "tool_call_id": "call_1", "name": "numbat"},
]  # fmt: skip


@lru_cache(maxsize=16)
def _dialect(tokenizer: Any, template: str) -> Dialect:
    """The first shapes in which the template writes a probe; the usual one where it writes it in none."""

    def written(messages: list[Row], dialect: Dialect, *words: str) -> str:
        """The text, "" if it lacks one of the words or holds an object in Python's form."""
        try:
            text, _ = _write(tokenizer, template, messages, dialect, None)
        except ConversationError:
            return ""
        return text if all(word in text for word in words) and not re.search(r"\{'(quokka|type)'", text) else ""

    def first(probes: Iterable[tuple[Dialect, list[Row]]], *words: str) -> Dialect:
        shapes = list(probes)
        return next((shape for shape, messages in shapes if written(messages, shape, *words)), shapes[0][0])

    usual = Dialect(
        listed=False, parts=False, system=True, arguments=True, silent="", reasoning="field", short_ids=False, end=""
    )
    found = first(
        ((replace(usual, listed=listed, parts=parts), [ASK]) for listed in (False, True) for parts in (False, True)),
        "wombat",
    )
    found = first(((replace(found, system=system), [INSTRUCT, ASK]) for system in (True, False)), "quokka", "wombat")
    found = first(
        ((replace(found, reasoning=reasoning), [ASK, THOUGHT]) for reasoning in ("field", "text", "part")), "quokka"
    )
    answered = written([ASK, ANSWER], found, "numbat")
    found = replace(found, end=answered.rpartition("numbat")[2].strip())
    return first(
        (
            (replace(found, arguments=arguments, silent=silent, short_ids=short), [ASK, *CALL])
            for short in (False, True)
            for arguments in (True, False)
            for silent in ("", None)
        ),
        "numbat",
        "quokka",
        "dingo",
        "possum",
    )
