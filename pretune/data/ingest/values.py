"""The values of one column: texts, lists, labels, numbers, answers, in each spelling that files have.

A list in a table is JSON, what Python prints (`['a', 'b']`) or what NumPy prints (`['a' 'b']`, `[1. 2.]`).
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
import tokenize
import warnings
from itertools import pairwise
from typing import Any

from pretune.config.source_spec import SPLIT_ALIASES, SPLITS

SHOWN = 60  # characters of a value in a message
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\.0*")  # a whole number, written as a float
ITEM = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\](){}]+)(\s*,\s*|\s+|$)""", re.DOTALL)
BRACKETS = {"[": "]", "{": "}", "(": ")"}


class BadRowError(ValueError):
    """Why a record cannot be a row: a `reason`, by which bad rows are counted, and the `detail` of this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


def shown(value: Any) -> str:
    """A value in a message: as Python writes it, at most SHOWN characters."""
    literal = repr(value)
    return literal if len(literal) <= SHOWN else literal[:SHOWN] + "…"


def canonical(value: bool | float | str) -> str:
    """One spelling for a value: `0` for 0, 0.0 and "0.0"; `true` for True, "True" and "TRUE"."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    stripped = str(value).strip()
    if WHOLE.fullmatch(stripped):
        whole = stripped.partition(".")[0]
        return "0" if whole == "-0" else whole
    return stripped.lower() if stripped in {"True", "TRUE", "False", "FALSE"} else stripped


def is_number(name: str) -> bool:
    """Whether a canonical value is a whole number."""
    return name.isascii() and name.removeprefix("-").isdigit()


def is_name(value: Any) -> bool:
    """Whether a value can name a class: a word, a whole number, true or false."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def is_empty(value: Any) -> bool:
    """Whether a value is none: nothing, white space, an empty list, NaN."""
    if isinstance(value, str | list | dict):
        return not (value.strip() if isinstance(value, str) else value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def parsed(value: Any) -> Any:
    """The list or object that a text holds; any other value as it is. None for a text that cannot be read."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits, too many brackets
        stripped = value.strip()
    if stripped.startswith("[") and stripped.endswith("]"):
        items = _flat_list(stripped[1:-1].strip())
        if items is not None:
            return items
    literal = _literal(stripped)
    is_list = isinstance(literal, list | dict)  # a set has no order
    return literal if is_list and not _joins_texts(stripped) else None


def _flat_list(content: str) -> list[Any] | None:
    """The items between the brackets, separated by commas or by white space; None if they are anything else."""
    items, separators, position = [], set(), 0
    while position < len(content):
        match = ITEM.match(content, position)
        item = _literal(match[1]) if match else None
        if match is None or not isinstance(item, str | int | float):  # `...` stands for items that NumPy left out
            return None
        items.append(item)
        position = match.end()
        separators |= {"," in match[2]} if position < len(content) else set()
    return items if len(separators) < 2 else None


def _joins_texts(source: str) -> bool:
    """Whether Python would join texts: 'a' 'b' are one to it, and two to NumPy."""
    try:
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(source).readline)]
    except (tokenize.TokenError, SyntaxError):
        return True
    kinds = [kind for kind in kinds if kind not in {tokenize.NL, tokenize.NEWLINE}]
    return any(pair == (tokenize.STRING, tokenize.STRING) for pair in pairwise(kinds))


def _literal(source: str) -> Any:
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            return ast.literal_eval(source)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def is_list(value: Any) -> bool:
    """Whether a value is a list or an object, or a text that holds one."""
    return isinstance(value, list | dict) or (_is_bracketed(value) and parsed(value) is not None)


def _is_bracketed(value: Any) -> bool:
    stripped = value.strip() if isinstance(value, str) else ""
    return stripped.endswith(BRACKETS.get(stripped[:1], "\n"))


def text(value: Any, column: str) -> str:
    """A text without white space around it; of a `context` with it: answers count its characters."""
    if not isinstance(value, str):
        raise BadRowError(f"{column}: no text", shown(value))
    return value if column == "context" else value.strip()


def target(value: Any, column: str) -> str:
    """A text to write, or a number as it is written."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return canonical(value) if is_number else text(value, column)


def words(value: Any, column: str) -> list[str]:
    """A list of texts, or a text whose words are separated by white space."""
    items = parsed(value) if _is_bracketed(value) else value.split() if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise BadRowError(f"{column}: no list of texts", shown(value))
    return [str(item) for item in items]


def labels(value: Any, column: str) -> list[str]:
    """A list, a text with commas (`labels`) or white space (`tags`), or {name: 0 or 1}: the names with 1."""
    items = parsed(value) if _is_bracketed(value) else value
    if isinstance(items, str):
        items = [part for part in (items.split(",") if column == "labels" else items.split()) if part.strip()]
    if isinstance(items, dict) and column == "labels":
        return [name for name, flag in items.items() if flag is not None and _is_one(flag, column, name)]
    if not isinstance(items, list) or not all(is_name(item) for item in items):
        raise BadRowError(f"{column}: no list of words or whole numbers", shown(value))
    return [canonical(item) for item in items]


def _is_one(flag: Any, column: str, name: str) -> bool:
    flag_name = canonical(flag) if isinstance(flag, bool | int | float | str) else ""
    if flag_name not in {"0", "1", "false", "true"}:
        raise BadRowError(f"{column}: neither 0 nor 1", f"{name} is {shown(flag)}")
    return flag_name in {"1", "true"}


def number(value: Any, column: str) -> float:
    """A finite number."""
    try:
        if isinstance(value, str) and "_" in value:  # Python reads 2020_01 as 202001
            raise ValueError(value)
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRowError(f"{column}: no number", shown(value)) from None
    if not math.isfinite(result):
        raise BadRowError(f"{column}: not finite", shown(value))
    return result


def numbers(value: Any, column: str) -> list[float]:
    """A list of numbers, or one number."""
    items = parsed(value) if _is_bracketed(value) else value
    if items is None:
        raise BadRowError(f"{column}: no list of numbers", shown(value))
    return [number(item, column) for item in (items if isinstance(items, list) else [items])]


def answers(value: Any, column: str) -> list[dict[str, Any]]:
    """A list of {text, answer_start} of SQuAD, or an object of two lists or two values. An empty text is no answer."""
    found = parsed(value)
    try:
        if isinstance(found, dict):
            texts, starts = found["text"], found["answer_start"] if "answer_start" in found else found["start"]
            pairs = list(zip(*([x] if not isinstance(x, list) else x for x in (texts, starts)), strict=True))
        else:
            pairs = [(item["text"], item.get("answer_start", item.get("start"))) for item in found]
        filled = [(answer, start) for answer, start in pairs if not is_empty(answer)]
        spans = [{"text": answer, "start": int(canonical(start))} for answer, start in filled]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise BadRowError(f"{column}: no list of {{text, answer_start}}", shown(value)) from None
    if not all(isinstance(span["text"], str) and span["start"] >= 0 for span in spans):
        raise BadRowError(f"{column}: no list of {{text, answer_start}}", shown(value))
    return spans


def flag(value: Any, column: str) -> bool:
    """True or false, also as 1 and 0."""
    name = canonical(value).lower() if isinstance(value, bool | int | float | str) else ""
    if name not in {"0", "1", "false", "true"}:
        raise BadRowError(f"{column}: neither true nor false", shown(value))
    return name in {"1", "true"}


def texts(value: Any, column: str) -> list[str]:
    """A list of texts, or one text."""
    items = [value] if isinstance(value, str) and not _is_bracketed(value) else parsed(value)
    if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
        raise BadRowError(f"{column}: no list of texts", shown(value))
    return items


def split(value: Any, column: str) -> str:
    """The name of a split."""
    name = value.strip().lower() if isinstance(value, str) else ""
    name = SPLIT_ALIASES.get(name, name)
    if name not in SPLITS:
        raise BadRowError(f"{column}: none of {', '.join(SPLITS)}", shown(value))
    return name


def group(value: Any, column: str) -> str:
    """The key of a group: a text or a whole number."""
    if not is_name(value):
        raise BadRowError(f"{column}: no key", shown(value))
    return canonical(value)
