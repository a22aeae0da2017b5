r"""Conversations, from the forms in which people write them to messages of a row (MESSAGE in data/rows.py).

- OpenAI: {role, content, tool_calls, tool_call_id, reasoning_content, weight}; content is a text, parts or null.
- ShareGPT: {from, value}; a call of a tool is a message of its own, the JSON of {name, arguments} or a list of them.
- pairs: [[what the user says, what the assistant answers], …], the `history` of Alpaca's form.
- "Human: …\n\nAssistant: …": a whole conversation in one text, as in Anthropic's preferences.

Nothing of a message is left out silently: what cannot be read makes a bad row, and `unread` names keys without a use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

from pretune.data.ingest import values
from pretune.data.ingest.values import BadRowError, is_empty, parsed, shown
from pretune.data.rows import Row, last_answer

ROLES = {
    **dict.fromkeys(("system", "developer", "user", "assistant", "tool"), ""),  # ours
    "human": "user",
    **dict.fromkeys(("gpt", "bot", "chatgpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response", "tool_response"), "tool"),
}
ROLE, CONTENT = ("role", "from"), ("content", "value")  # keys of a message: those of OpenAI, those of ShareGPT
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning", "reasoning_content", "thinking")
OF_ASSISTANT, OF_TOOL = {*CALLS, *REASONING, "weight"}, {"tool_call_id", "name"}
TEXT_PARTS = {"text", "input_text", "output_text"}  # types of parts that hold a text
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
SPEAKER = re.compile(r"\n\n(Human|Assistant):")  # between the turns of a conversation in one text


def is_message(value: Any) -> bool:
    """Whether a value is an object with a role."""
    return isinstance(value, dict) and any(isinstance(value.get(key), str) for key in ROLE)


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of which some are messages, or a text that holds one."""
    opened = parsed(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    return isinstance(opened, list) and any(map(is_message, opened))


def without_nulls(value: Any) -> Any:
    """The same without keys that hold None: Arrow gives each call and each schema the keys of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def is_answered(value: Any) -> bool:
    """Whether the last message of a conversation is one of the assistant."""
    last = parsed(value)[-1]
    return is_message(last) and _role(last) == "assistant"


def messages(value: Any, column: str) -> list[Row]:
    """A list of messages. Raises BadRowError."""
    turns = parsed(value)
    if not isinstance(turns, list) or not turns or not all(map(is_message, turns)):
        raise BadRowError(f"{column}: no list of {{role, content}} or {{from, value}}", shown(value))
    return [message(turn, column) for turn in turns]


def answer(value: Any, column: str) -> list[Row]:
    """What answers a prompt: a text, one message, or messages; also a whole conversation. Raises BadRowError."""
    opened = parsed(value) if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"} else value
    if is_message(opened):
        return [message(opened, column)]
    if isinstance(value, str) and not is_conversation(opened):
        return _transcript(value) or [message({"role": "assistant", "content": value}, column)]
    return messages(opened, column)


def _transcript(text: str) -> list[Row]:
    r"""The messages of "Human: …\n\nAssistant: …"; none of any other text."""
    before, *turns = SPEAKER.split(f"\n\n{text.strip()}")
    if before or turns[:1] != ["Human"]:
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[who], "content": said.strip()} for who, said in zip(turns[::2], turns[1::2], strict=True)]


def history(value: Any, column: str) -> list[Row]:
    """Earlier turns: pairs of what the user says and what the assistant answers, or messages. Raises BadRowError."""
    turns = parsed(value)
    if is_conversation(turns):
        return messages(turns, column)
    if not isinstance(turns, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in turns):
        raise BadRowError(f"{column}: a history that is no list of pairs or messages", shown(value))
    spoken = [item for pair in turns for item in zip(("user", "assistant"), pair, strict=True)]
    return [message({"role": role, "content": content}, column) for role, content in spoken]


def _name(turn: Row) -> str:
    """The role as the source names it."""
    return str(next(turn[key] for key in ROLE if isinstance(turn.get(key), str))).strip().lower()


def _role(turn: Row) -> str:
    """Our name of the role; that of the source for an unknown one."""
    return ROLES.get(_name(turn)) or _name(turn)


def message(turn: Row, column: str) -> Row:
    """One message as MESSAGE. Raises BadRowError with the reason."""
    name, role = _name(turn), _role(turn)
    if name not in ROLES:
        raise BadRowError(f"{column}: an unknown role", shown(name))
    content = next((turn[key] for key in CONTENT if turn.get(key) is not None), None)
    result: Row = {"role": role}
    calls = [turn[key] for key in CALLS if not is_empty(turn.get(key))]
    if name == "function_call":
        content, call = _thought(content)
        calls, content = [call], content and f"<think>{content}</think>"
    if calls and role != "assistant":
        raise BadRowError(f"{column}: calls of tools by another role than assistant", role)
    if content is None and not calls:
        raise BadRowError(f"{column}: a message without content", shown(turn))
    result["content"] = "" if content is None else _text(content, role, column)
    if role == "assistant":
        result |= _reasoning(turn, result["content"], column) | (
            {"tool_calls": _calls(calls[0], column)} if calls else {}
        )
        if not is_empty(turn.get("weight")):
            result["weight"] = _weight(turn["weight"], column)
    if role == "tool":
        result |= {key: str(turn[key]) for key in sorted(OF_TOOL) if not is_empty(turn.get(key))}
    return result


def unread(value: Any) -> Iterator[str]:
    """The keys of messages that hold a value and are not read."""
    for turn in value if isinstance(value, list) else [value]:
        if is_message(turn):
            role = _role(turn)
            read = {*ROLE, *CONTENT} | (OF_ASSISTANT if role == "assistant" else OF_TOOL if role == "tool" else set())
            yield from (key for key in turn if key not in read and not is_empty(turn[key]))


def _text(content: Any, role: str, column: str) -> str:
    """The text of a message. Texts of several parts stand one below the other, as vLLM and llama.cpp join them."""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, list) and content and all(isinstance(part, str | dict) for part in content):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        other = [part for part in parts if part.get("type") not in TEXT_PARTS or not isinstance(part.get("text"), str)]
        if not other:
            return "\n".join(part["text"] for part in parts).strip()
        if any("type" in part for part in other):
            kinds = {str(part.get("type")) for part in other}
            raise BadRowError(f"{column}: a part of a message that is no text", ", ".join(sorted(kinds)))
    if role == "tool" and isinstance(content, dict | list):
        return _json(content, column)
    raise BadRowError(f"{column}: content that is no text", shown(content))


def _thought(content: Any) -> tuple[str, Any]:
    """The thought between <think> and </think> at the beginning of an answer, "" for none, and what follows."""
    if isinstance(content, str) and (match := THOUGHT.match(content)):
        return match[1].strip(), content[match.end() :].strip()
    return "", content


def _reasoning(turn: Row, content: str, column: str) -> Row:
    """`reasoning` and `content` of an answer: a thought has a key of its own, or stands before the answer."""
    given = next((turn[key] for key in REASONING if not is_empty(turn.get(key))), "")
    if not isinstance(given, str):
        raise BadRowError(f"{column}: reasoning that is no text", shown(given))
    thought, rest = _thought(content)
    if given and thought and given.strip() != thought:
        raise BadRowError(f"{column}: two different thoughts before one answer", shown(thought))
    reasoning = given.strip() or thought
    return {"content": rest} | ({"reasoning": reasoning} if reasoning else {})


def _calls(value: Any, column: str) -> str:
    """The JSON of calls: [{id if it has one, type, function: {name, arguments: an object}}]."""
    opened = parsed(value)
    calls = opened if isinstance(opened, list) else [opened]
    return _json([_call(call, column) for call in calls], column)


def _call(call: Any, column: str) -> Row:
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else call
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise BadRowError(f"{column}: a call of a tool without its name", shown(call))
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if is_empty(arguments) else parsed(arguments)
    if not isinstance(arguments, dict):
        raise BadRowError(f"{column}: arguments of a call that are no object", shown(function.get("arguments")))
    identity = {} if is_empty(call.get("id")) else {"id": str(call["id"])}
    return identity | {"type": "function", "function": {"name": name, "arguments": arguments}}


def _weight(value: Any, column: str) -> float:
    weight = values.number(value, column)
    if weight < 0:
        raise BadRowError(f"{column}: a negative weight", shown(value))
    return weight


def tools(value: Any, column: str) -> str | None:
    """The JSON of [{type: function, function: {name, description, parameters}}]; None for an empty list."""
    opened = parsed(value)
    functions = opened if isinstance(opened, list) else [opened]
    schemas = [tool if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else {"function": tool}
               for tool in functions]  # fmt: skip
    for schema in schemas:
        if not isinstance(schema["function"], dict) or not isinstance(schema["function"].get("name"), str):
            raise BadRowError(f"{column}: no list of functions with names", shown(value))
    return _json([{"type": "function"} | schema for schema in schemas], column) if schemas else None


def _json(value: Any, column: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        raise BadRowError(f"{column}: a value that JSON does not have", shown(value)) from None


def fit(row: Row) -> Row:
    """The row, `chosen` and `rejected` without the prompt before them. Raises BadRowError where columns do not fit."""
    if "desirable" in row and last_answer(row.get("messages", [])) == len(row.get("messages", [])):
        raise BadRowError("desirable: there is no answer that could be")
    if "chosen" not in row and "rejected" not in row:
        return row
    if lacking := [name for name in ("chosen", "rejected") if not row.get(name)]:
        raise BadRowError(f"{lacking[0]}: no answer")
    if row["chosen"] == row["rejected"]:
        raise BadRowError("chosen and rejected are the same")
    beginning = _beginning(row["chosen"], row["rejected"])
    answers = {name: row[name][len(beginning) :] for name in ("chosen", "rejected")}
    for name, turns in answers.items():
        if not turns or turns[0]["role"] != "assistant" or turns[-1]["role"] != "assistant":
            raise BadRowError(f"{name}: no answer of the assistant to the prompt")
    return row | {"messages": _prompt(row.get("messages", []), beginning)} | answers


def _beginning(first: list[Row], second: list[Row]) -> list[Row]:
    """The messages with which both conversations begin."""
    return [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))]


def _prompt(given: list[Row], beginning: list[Row]) -> list[Row]:
    """The prompt of a preference, given in a column of its own, at the beginning of both answers, or in both places."""
    if not given and not beginning:
        raise BadRowError("chosen and rejected: no prompt, and no beginning that they share")
    if not beginning or beginning[0]["role"] in {"assistant", "tool"}:
        return given + beginning
    if given and not any(turn["content"] == beginning[-1]["content"] for turn in given):
        raise BadRowError("chosen and rejected: another prompt than that of the row", shown(beginning[-1]["content"]))
    return beginning
