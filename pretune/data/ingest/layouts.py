"""Recognises the layouts in which conversations are published, by the names of their columns, for each record alone.

| layout | columns |
|---|---|
| OpenAI, ShareGPT | `messages` or `conversations`, with `tools` |
| Alpaca | `instruction`, `input`, `output`, with `system` and `history` |
| GSM8K, OpenOrca | `question` and its `answer` or `response`, both texts |
| preferences | `chosen` and `rejected`, with a conversation, an instruction or a prompt before them, or none |
| KTO | a prompt, its answer and `label`, which is true or false |
| verifiable rewards | a prompt and what its answer is compared with, as `solution` |

The result has the form of `ingest.columns`: what is recognised here could be written there.
"""

from __future__ import annotations

from typing import Any

from pretune.data.ingest import conversations
from pretune.data.ingest.values import is_empty

Names = str | list[str] | dict[str, list[str]]  # of columns of the source
Columns = dict[str, Names]  # {ours: theirs}

CONVERSATION = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")
QUESTION = ("instruction", "prompt", "question")
CONTEXT = ("input", "context")
ANSWER = ("output", "response", "completion", "answer", "reply")
REFERENCE = ("target", "solution", "ground_truth", "reference", "reference_answer")
SYSTEM = ("system", "system_prompt")
TOOLS = ("tools", "functions")
PREFERENCE = ("chosen", "rejected")
BESIDE = ("context", "passage", "sentence", "label", "labels", "score")  # where a `question` is no prompt
REPLACED = ("text", "pair", "question", "context")  # columns that tell a recognised conversation again


def columns_of(record: dict[str, Any]) -> Columns:
    """{our column: columns of the source} for a record that holds a conversation; empty for any other."""
    whole = next((name for name in CONVERSATION if conversations.is_conversation(record.get(name))), None)
    question = _asked(record)
    columns: Columns = {}
    if all(name in record for name in PREFERENCE) and (_filled(record, PREFERENCE) or not (whole or question)):
        if whole or question:
            columns["messages"] = _turns(record, whole, question)
        columns |= {name: name for name in PREFERENCE}
    elif whole:
        columns["messages"] = _turns(record, whole, None)
        columns |= {} if conversations.is_answered(record[whole]) else _target(record)
    elif question:
        answer = _filled(record, ANSWER)
        target = {} if answer else _target(record)
        answer = answer or (None if target else next((name for name in ANSWER if name in record), None))
        if not answer and not target:
            return {}
        columns |= {"messages": _turns(record, None, question, answer)} | target
    if columns and (tools := _filled(record, TOOLS)):
        columns["tools"] = tools
    if "messages" in columns and not {"chosen", "target"} & columns.keys() and is_verdict(record.get("label")):
        columns["desirable"] = "label"
    return columns


def is_verdict(value: Any) -> bool:
    """Whether a label says of an answer that it is good, or that it is not: true or false, no class and no number."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in {"true", "false"})


def _filled(record: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these columns that holds a value."""
    return next((name for name in names if name in record and not is_empty(record[name])), None)


def _asked(record: dict[str, Any]) -> str | None:
    """The column of a prompt. A `question` whose answer is found in another text, is rated, or is a class, is none."""
    name = _filled(record, QUESTION) or next((name for name in QUESTION if name in record), None)
    answer = record.get(_filled(record, (*ANSWER, *REFERENCE)) or "", "")
    is_text = isinstance(answer, str) and not is_verdict(answer)
    return None if name == "question" and (_filled(record, BESIDE) or not is_text) else name


def _turns(record: dict[str, Any], whole: str | None, question: str | None, answer: str | None = None) -> Names:
    """The columns of a conversation, by the roles of their texts; `history` is all turns before them."""
    system, history = _filled(record, SYSTEM), _filled(record, ("history",))
    if whole:
        return {"system": [system], "history": [whole]} if system else whole
    turns = {"system": [system] if system else [], "history": [history] if history else []}
    turns["user"] = [name for name in (question, _filled(record, CONTEXT)) if name]
    turns["assistant"] = [answer] if answer else []
    return {role: names for role, names in turns.items() if names}


def _target(record: dict[str, Any]) -> Columns:
    name = _filled(record, REFERENCE)
    return {"target": name} if name else {}
