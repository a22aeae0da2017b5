"""The time in which a model answers rows: by what it takes to read a few tokens, or by the answers to some rows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from transformers import DynamicCache

from pretune.data.rows import Row, last_answer
from pretune.predictor import chat, decoding, slots

if TYPE_CHECKING:
    from pretune.objectives.base import FinetuningObjective

TOKENS = (1, 8, 64, 256)  # read at once, each timed
FIRST, ENOUGH = 8, 0.5  # rows that are answered first, four times as many each time; seconds of answers that are enough


@dataclass(frozen=True)
class Pace:
    """Seconds in which a decoder reads so many `tokens` at once.

    A step of decoding so many rows takes as long: both pass so many tokens through the same matrices.
    """

    tokens: Sequence[int]
    seconds: Sequence[float]

    @classmethod
    def measure(cls, model: Any) -> Self:
        """The faster one of two passes; of most tokens one pass, which varies little."""
        longest = getattr(model.config, "max_position_embeddings", None) or TOKENS[-1]
        *few, most = [tokens for tokens in TOKENS if tokens <= longest]
        with torch.inference_mode():
            _read(model, 1)  # the first one allocates
            seconds = [min(_read(model, tokens) for _ in range(2)) for tokens in few]
            return cls([*few, most], [*seconds, _read(model, most)])

    def __call__(self, tokens: float) -> float:
        """Seconds in which so many are read: between those measured on a line, beyond them in proportion."""
        beyond = max(1.0, tokens / self.tokens[-1])
        return beyond * float(np.interp(tokens, self.tokens, self.seconds))

    def writing(self, prompts: Sequence[int], answers: Sequence[int]) -> float:
        """Seconds in which rows with so many tokens each are decoded together, as predictor/decoding.py does."""
        seconds, held = sum(map(self, prompts)), _slots(min(decoding.MOST, len(prompts)))
        waiting = deque(count - 1 for _, count in sorted(zip(prompts, answers, strict=True)))  # reading gives the first
        rows: list[int] = []  # how many tokens each still writes
        while waiting or rows:
            rows += [waiting.popleft() for _ in range(min(held - len(rows), len(waiting)))]
            held = _slots(len(rows)) if 2 * len(rows) <= held else held
            steps = min(rows)
            seconds += steps * self(held)
            rows = [left - steps for left in rows if left > steps]
        return seconds

    def alone(self, prompts: Sequence[int], answers: Sequence[int]) -> float:
        """Mean seconds in which one such row is decoded by itself."""
        return float(
            np.mean([self(prompt) + (count - 1) * self(1) for prompt, count in zip(prompts, answers, strict=True)])
        )


def _slots(rows: int) -> int:
    """The rows of a cache for so many."""
    return len(slots.Slots(rows).lengths)


def _read(model: Any, tokens: int) -> float:
    began = time.perf_counter()
    decoding.prefill(model, [token % model.config.vocab_size for token in range(tokens)], DynamicCache())
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - began


def writes(objective: FinetuningObjective | type[FinetuningObjective], model: Any) -> bool:
    """Whether the model answers with messages that are decoded together."""
    return objective.answers == "reply" and "desirable" not in objective.columns and decoding.has_slots(model)


def seconds(objective: Any, model: Any) -> float:
    """Seconds of `objective.predict(model)`; a chat model is taken to write as much as there is in the rows."""
    if writes(objective, model):
        return Pace.measure(model).writing(*lengths(objective, model))
    return few(objective, model).whole


def lengths(objective: Any, model: Any) -> tuple[list[int], list[int]]:
    """Tokens of the prompt of each conversation, and of the answer in it, as far as both are read and written."""
    reply = chat.Reply(model, objective.context.inputs, objective.inference_config(objective.context))
    most, prompts, answers = int(reply.inference_config["reply_tokens"]), [], []
    for row, text in zip(objective.rows, references(objective.rows), strict=True):
        turns = row["messages"] + row.get("chosen", [])
        prompts.append(min(reply.room, len(reply.prompt(row | {"messages": turns[: last_answer(turns)]}))))
        ids = reply.tokenizer(text, add_special_tokens=False)["input_ids"] if text else range(most)
        answers.append(min(most, len(ids) + 1))  # the token that ends it
    return prompts, answers


def references(rows: Sequence[Row]) -> list[str]:
    """The last answer of each conversation, "" where there is none."""
    conversations = [row["messages"] + row.get("chosen", []) for row in rows]
    return [[*turns, {"content": ""}][last_answer(turns)]["content"] or "" for turns in conversations]


def cache(model: Any, prompts: Sequence[int], answers: Sequence[int]) -> int:
    """Bytes of keys and values of the rows that are decoded together."""
    longest = max(map(sum, zip(prompts, answers, strict=True)), default=0)
    width = -(-longest // slots.WIDTH) * slots.WIDTH
    return min(decoding.CACHE, min(decoding.MOST, len(prompts)) * width * decoding.token_bytes(model))


@dataclass(frozen=True)
class Few:
    """Some rows that were answered, which are `share` of all by their size; whole: seconds of the answers to all."""

    rows: list[Row]
    share: float
    whole: float
    predictions: Any


def few(objective: Any, model: Any) -> Few:
    """Answer rows of middle size, which are little padded: more until they take ENOUGH seconds."""
    ordered, count = sorted(objective.rows, key=_size), FIRST
    total = sum(map(_size, ordered))
    type(objective)(ordered[:1], objective.context).predict(model)  # the first one allocates
    while True:
        first = max(0, len(ordered) - count) // 2
        part = type(objective)(ordered[first : first + count], objective.context)
        began = time.perf_counter()
        predictions = part.predict(model)
        took = time.perf_counter() - began
        if took > ENOUGH or count >= len(ordered):
            share = sum(map(_size, part.rows)) / total
            return Few(part.rows, share, took / share, predictions)
        count *= 4


def _size(row: Row) -> int:
    """Characters of a row's texts, or bytes of its image."""
    return 1 + sum(len(value if isinstance(value, bytes) else str(value)) for value in row.values())
