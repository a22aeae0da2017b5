"""Conversations as training samples: token ids, and what each of them weighs in the loss.

Chat templates write a message otherwise once others follow: they drop its reasoning, or end it by another token.
Each answer is therefore learnt as it looks when it is given: before it stands exactly the prompt that the model gets
at inference. Answers share a sample where the prompt of the later one continues the sample of the one before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from pretune.data.rows import Row, last_answer
from pretune.errors import DataError
from pretune.predictor import conversation
from pretune.predictor.conversation import ConversationError

SHOWN = 5  # reasons of refused rows
PROBE = "\ue000"  # stands for a thought
PARTS = {"content": "text", "reasoning": "thoughts", "tool_calls": "calls of tools", "tools": "list of tools"}


@dataclass(frozen=True)
class Sample:
    """ids: (tokens,) int64. weights: (tokens,) float32, of the loss on each token; 0 where it is input only."""

    ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


class Encoder:
    """Turns conversations into samples by the chat template of `tokenizer`, and counts what the template leaves out.

    loss: on all answers, or on the last of each conversation only; the `weight` of a message scales its loss.
    reasoning: whether thoughts are learnt, or input only.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        loss: Literal["all", "last"] = "all",
        reasoning: Literal["trained", "masked"] = "trained",
    ) -> None:
        self.loss: Literal["all", "last"] = loss
        self._reasoning: Literal["trained", "masked"] = reasoning
        self._tokenizer = tokenizer
        self._left_out = Counter[str]()

    def conversation(self, messages: list[Row], tools: str | None = None) -> list[Sample]:
        """The samples of a conversation; [] if nothing in it is learnt. Raises ConversationError."""
        answers = [index for index, turn in enumerate(messages) if index and turn["role"] == "assistant"]
        learnt = [index for index in answers if messages[index].get("weight", 1.0)]
        if self.loss == "last":
            learnt = [index for index in learnt if index == last_answer(messages)]
        return _joined(self._answer(messages[:index], messages[index], tools) for index in learnt)

    def completion(self, messages: list[Row], answer: list[Row], tools: str | None = None) -> Sample:
        """A prompt with one given answer, which may go through calls of tools. Raises ConversationError, DataError."""
        whole = [*messages, *answer]
        places = [index for index in range(len(messages), len(whole)) if whole[index]["role"] == "assistant"]
        samples = _joined(self._answer(whole[:index], whole[index], tools) for index in places)
        if len(samples) != 1:
            raise DataError(
                "the chat template writes a message otherwise once others follow: an answer has to be one message",
                "leave one message in each answer, or name another template in finetune.settings",
            )
        return samples[0]

    def quiet(self) -> Encoder:
        """The same encoder with a count of its own."""
        return Encoder(self._tokenizer, loss=self.loss, reasoning=self._reasoning)

    def warnings(self) -> list[str]:
        """What the template has left out so far, one line for each kind."""
        return [
            f"the chat template does not write the {PARTS[name]} of {count} answer{'s'[: count != 1]}: "
            "the model does not see them"
            for name, count in sorted(self._left_out.items())
            if count
        ]

    def _answer(self, before: list[Row], answer: Row, tools: str | None) -> Sample:
        """One answer after the prompt that the model gets at inference, and nothing behind its end."""
        prompt = conversation.render(self._tokenizer, before, tools, add_generation_prompt=True)
        text, marked = conversation.render_spans(self._tokenizer, [*before, answer], tools)
        if text.startswith(prompt):
            written = text[len(prompt) :]
            spans = None if marked is None else _from_start(marked, len(prompt))
        else:
            written, spans = self._after_prompt(prompt, text, before, answer, tools), None
        self._compare(prompt, written, answer, tools)
        written = written.rstrip()  # what separates it from the next message
        if not conversation.end(self._tokenizer):
            size, written = len(written), written + (self._tokenizer.eos_token or self._tokenizer.sep_token or "")
            spans = None if spans is None else [*spans, (size, len(written))]
        thought = answer.get("reasoning", "").strip() if self._reasoning == "masked" else ""
        masked = [(written.index(thought), written.index(thought) + len(thought))] if thought in written else []
        return self._sample(prompt, written, spans, masked, answer.get("weight", 1.0))

    def _after_prompt(self, prompt: str, text: str, before: list[Row], answer: Row, tools: str | None) -> str:
        """What follows the prompt, where the template writes the conversation with its answer otherwise.

        Most prompts that do so open a thought: it is closed as the template closes one.
        """
        thought = answer.get("reasoning", "").strip()
        if not thought:
            probed = conversation.render(self._tokenizer, [*before, answer | {"reasoning": PROBE}], tools)
            if probed.startswith(prompt) and PROBE in probed:
                return probed[len(prompt) :].replace(PROBE, "")
        pairs = enumerate(zip(prompt, text, strict=False))
        shared = next((place for place, (one, other) in pairs if one != other), min(len(prompt), len(text)))
        if tag := re.search(r"[<\[][^<>\[\]\s]*$", text[:shared]):  # both go on within one
            shared = tag.start()
        ahead, behind = prompt[shared:], text[shared:]
        if ahead.strip() == "<think>" and "<think>" not in behind:
            return f"{thought}\n</think>\n\n{behind}"
        inside, closed, rest = behind.partition(ahead)
        if closed.strip() and thought and thought in inside:  # the prompt closes a thought that the answer has
            return rest
        asked = prompt.rfind(before[-1]["content"].strip())
        if asked >= 0 and (place := text.rfind(prompt[asked:])) >= 0:  # what differs lies before the last message
            return text[place + len(prompt) - asked :]
        return behind

    def _sample(
        self,
        prompt: str,
        written: str,
        spans: list[tuple[int, int]] | None,
        masked: list[tuple[int, int]],
        weight: float,
    ) -> Sample:
        """Both texts as tokens; learnt are the spans of `written` (None: all of it) without those that are masked.

        The first tokens are those of the prompt alone, as at inference: a tokenizer might join the two at their border.
        """
        options = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        before = self._tokenizer(prompt, **options)["input_ids"]
        encoded, start = self._tokenizer(prompt + written, **options), len(prompt)
        after, offsets = encoded["input_ids"][len(before) :], encoded["offset_mapping"][len(before) :]
        if encoded["input_ids"][: len(before)] != before:
            encoded, start = self._tokenizer(written, **options), 0
            after, offsets = encoded["input_ids"], encoded["offset_mapping"]
        starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T - start
        learnt = np.full(len(after), spans is None)
        for begin, end in spans or ():
            learnt |= (ends > begin) & (starts < end)
        for begin, end in masked:
            learnt &= (ends <= begin) | (starts >= end)
        weights = np.zeros(len(before) + len(after), dtype=np.float32)
        weights[len(before) :] = np.where(learnt, weight, 0)
        weights[:1] = 0  # no token precedes it
        return Sample(np.array(before + after, dtype=np.int64), weights)

    def _compare(self, prompt: str, written: str, answer: Row, tools: str | None) -> None:
        """Count what of an answer and of the tools the template has not written."""
        calls = [call["function"]["name"] for call in json.loads(answer.get("tool_calls") or "[]")]
        schemas = [tool.get("function", tool)["name"] for tool in json.loads(tools or "[]")]
        self._left_out["content"] += not _holds(written, answer["content"])
        self._left_out["reasoning"] += not _holds(written, answer.get("reasoning", ""))
        self._left_out["tool_calls"] += not all(name in written for name in calls)
        self._left_out["tools"] += not all(name in prompt for name in schemas)


@dataclass(frozen=True)
class Conversations:
    """The samples of all rows, and what has become of them, in rows and tokens.

    tokens: of all samples before any was cut. cut, dropped, split: rows that were too long. empty: rows with nothing
    to learn, which have no sample.
    """

    samples: list[Sample]
    length: int
    rows: int
    tokens: int
    cut: int
    cut_tokens: int
    dropped: int
    dropped_tokens: int
    split: int
    empty: int
    left_out: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row], encoder: Encoder, length: int, too_long: Literal["cut", "drop", "split"]) -> Self:
        """Encode rows with `messages` and perhaps `tools`; no sample is longer than `length`. Raises DataError."""
        samples: list[Sample] = []
        counts, refused = Counter[str](), Counter[str]()
        for row in rows:
            try:
                found = _fitting(row, encoder, length, too_long, counts)
            except ConversationError as error:
                refused[f"{error} (the first: {row.get('origin', 'a row')})"] += 1
                continue
            counts["empty"] += not found
            samples += found
        if refused:
            raise DataError(
                [f"{count} of {len(rows)} rows: {reason}" for reason, count in refused.most_common(SHOWN)],
                "correct these rows, or name another finetune.settings.template in params.yaml (docs/models.md)",
            )
        fate = {name: counts[name] for name in ("tokens", "cut", "cut_tokens", "dropped", "dropped_tokens", "split")}
        empty = counts["empty"] - counts["dropped"]
        made = cls(samples, length, len(rows), empty=empty, left_out=encoder.warnings(), **fate)
        if rows and not samples:
            raise DataError(
                [f"no row has an answer (role: assistant) within {length} tokens", *made.told()[0]],
                "raise finetune.sequence_length in params.yaml, or fix the data",
            )
        return made

    def told(self) -> tuple[list[str], dict[str, float]]:
        """Warnings, and figures for the record."""
        limit = f"longer than finetune.sequence_length {self.length}"
        warnings = {
            f"{self.cut} of {self.rows} rows are {limit}: {self.cut_tokens} of {self.tokens} tokens are cut": self.cut,
            f"{self.dropped} of {self.rows} rows are {limit} and left out: {self.dropped_tokens} of {self.tokens} "
            "tokens": self.dropped,
            f"{self.split} of {self.rows} rows are {limit} and split between turns": self.split,
            f"{self.empty} of {self.rows} rows have nothing to learn within {self.length} tokens and are left out": (
                self.empty
            ),
        }
        figures = {
            "rows": self.rows, "samples": len(self.samples), "tokens": sum(len(one.ids) for one in self.samples),
            "trained_tokens": sum(int(np.count_nonzero(one.weights)) for one in self.samples),
            "cut_rows": self.cut, "cut_tokens": self.cut_tokens, "dropped_rows": self.dropped,
            "dropped_tokens": self.dropped_tokens, "split_rows": self.split, "empty_rows": self.empty,
        }  # fmt: skip
        told = [text for text, count in warnings.items() if count]
        return told + self.left_out, {f"conversations_{name}": float(value) for name, value in figures.items()}


def _fitting(row: Row, encoder: Encoder, length: int, too_long: str, counts: Counter[str]) -> list[Sample]:
    """The samples of a row with something to learn, none longer than `length`."""
    tools = row.get("tools")
    samples = encoder.conversation(row["messages"], tools)
    tokens = sum(len(sample.ids) for sample in samples)
    long = any(len(sample.ids) > length for sample in samples)
    if long and too_long == "drop":
        counts.update(tokens=tokens, dropped=1, dropped_tokens=tokens)
        return []
    if long and too_long == "split":
        parts = _parts(row["messages"], tools, encoder, length)
        counts["split"] += len(parts) > 1
        samples = [sample for part in parts for sample in part]
        tokens = sum(len(sample.ids) for sample in samples)
    beyond = sum(max(0, len(sample.ids) - length) for sample in samples)
    counts.update(tokens=tokens, cut=int(beyond > 0), cut_tokens=beyond)
    cut = [Sample(sample.ids[:length], sample.weights[:length]) for sample in samples]
    return [sample for sample in cut if sample.weights.any()]


def _parts(messages: list[Row], tools: str | None, encoder: Encoder, length: int) -> list[list[Sample]]:
    """The samples of a conversation in parts of whole turns, each from a message of the user on, as many as fit.

    Each part begins with the instructions of the conversation. Where only the last answer is learnt, only the last
    part has it.
    """
    encoder = encoder.quiet()  # the conversation has been counted
    begin = next((index for index, turn in enumerate(messages) if turn["role"] not in {"system", "developer"}), 0)
    asked = [index for index in range(begin + 1, len(messages)) if messages[index]["role"] == "user"]
    turns = [messages[one:other] for one, other in pairwise([begin, *asked, len(messages)])]
    parts: list[list[Sample]] = []
    current: list[Row] = []
    for turn in turns:
        samples = encoder.conversation(messages[:begin] + current + turn, tools)
        if current and any(len(sample.ids) > length for sample in samples):
            current, samples = [], encoder.conversation(messages[:begin] + turn, tools)
            parts.append(samples)
        elif parts:
            parts[-1] = samples
        else:
            parts = [samples]
        current = [*current, *turn]
    return parts[-1:] if encoder.loss == "last" else parts


def _joined(answers: Iterator[Sample]) -> list[Sample]:
    """As few samples as can hold the answers: each goes on where its prompt begins with all of the sample before."""
    samples: list[Sample] = []
    for answer in answers:
        last = samples[-1] if samples else None
        if last and np.array_equal(answer.ids[: len(last.ids)], last.ids) and not answer.weights[: len(last.ids)].any():
            weights = answer.weights.copy()
            weights[: len(last.ids)] = last.weights
            samples[-1] = Sample(answer.ids, weights)
        else:
            samples.append(answer)
    return [sample for sample in samples if sample.weights.any()]


def _from_start(marked: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """The spans behind the first `size` characters; the first of them from there on: the model has to write it all."""
    spans = [(max(0, begin - size), end - size) for begin, end in marked if end > size]
    return [(0, spans[0][1]), *spans[1:]] if spans else []


def _holds(text: str, part: str) -> bool:
    """Whether the part stands in the text, but for white space."""
    return part.strip() in text or "".join(part.split()) in "".join(text.split())
