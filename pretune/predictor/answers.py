"""Answers in long texts: windows of question and context, and the best spans of all windows of a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .text import ROWS, Row, Text

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A question with a part of its context.

    row: whose it is. ids, types: (tokens,) int64. offsets: (tokens, 2), each token's characters of
    the context. inside: (tokens,) bool, which tokens are of the context.
    """

    row: int
    ids: Ids
    types: Ids
    offsets: Ids
    inside: npt.NDArray[np.bool_]

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The first and last token of the characters `start` to `end`; (0, 0) where they are not all in here."""
        touched = np.flatnonzero(self.inside & (self.offsets[:, 0] < end) & (self.offsets[:, 1] > start))
        if not len(touched) or self.offsets[touched[0], 0] > start or self.offsets[touched[-1], 1] < end:
            return 0, 0
        return int(touched[0]), int(touched[-1])


class Answered(Text):
    """The best answers to each question, as spans of its context, with their probabilities."""

    auto = "AutoModelForQuestionAnswering"
    reads: ClassVar[dict[str, str]] = {"question": "string", "context": "string"}
    gives: ClassVar[dict[str, str]] = {
        "answer": "string", "score": "double", "answers": "list(string)", "scores": "list(double)",
    }  # fmt: skip

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """See Text; `answer` is "" where the context holds nothing to answer with."""
        answers = []
        for found in self.best(rows):
            text, score = found[0] if found else ("", 0.0)
            answers.append(
                {"answer": text, "score": score, "answers": [t for t, _ in found], "scores": [p for _, p in found]}
            )
        return answers

    def best(self, rows: Sequence[Row]) -> list[list[tuple[str, float]]]:
        """The best answers of each row, the likeliest first."""
        if not rows:
            return []
        inference_config = self.inference_config
        found = windows(rows, self.tokenizer, length=inference_config["length"], overlap=inference_config["overlap"])
        contexts = [row["context"] for row in rows]
        return best(
            contexts, found, self._scores(found), number=inference_config["best"], longest=inference_config["longest"]
        )

    def _scores(self, found: Sequence[Window]) -> list[tuple[Floats, Floats]]:
        """Of each window the logits of its tokens to be first and last; windows of similar length go together."""
        order = sorted(range(len(found)), key=lambda number: len(found[number].ids))
        scores: dict[int, tuple[Floats, Floats]] = {}
        with torch.inference_mode():
            for start in range(0, len(order), ROWS):
                places = order[start : start + ROWS]
                said = self.model(**self._padded([found[place] for place in places]))
                for row, place in enumerate(places):
                    ends = (each[row, : len(found[place].ids)] for each in (said.start_logits, said.end_logits))
                    first, last = (each.double().cpu().numpy() for each in ends)
                    scores[place] = first, last
        return [scores[place] for place in range(len(found))]

    def _padded(self, found: Sequence[Window]) -> dict[str, Tensor]:
        shape = len(found), max(len(each.ids) for each in found)
        ids = torch.full(shape, int(self.tokenizer.pad_token_id))
        types, real = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        for row, each in enumerate(found):
            ids[row, : len(each.ids)] = torch.from_numpy(each.ids)
            types[row, : len(each.ids)] = torch.from_numpy(each.types)
            real[row, : len(each.ids)] = 1
        names = {"input_ids": ids, "attention_mask": real}
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            names["token_type_ids"] = types
        return {name: each.to(self.model.device) for name, each in names.items()}


def windows(rows: Sequence[Row], tokenizer: Any, *, length: int, overlap: int) -> list[Window]:
    """Every row's question with all of its context, in windows of `length` tokens that share `overlap` of them.

    A question is cut at half of that, and windows share a quarter at most.
    """
    around = tokenizer.num_special_tokens_to_add(pair=True)
    questions = [_cut(row["question"], tokenizer, length // 2 - around) for row in rows]
    encoded = tokenizer(
        questions,
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=length,
        stride=min(overlap, length // 4),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    return [
        Window(
            row,
            np.array(encoded["input_ids"][number]),
            np.array(encoded["token_type_ids"][number]),
            np.array(encoded["offset_mapping"][number]),
            np.array([part == 1 for part in encoded.sequence_ids(number)]),
        )
        for number, row in enumerate(encoded["overflow_to_sample_mapping"])
    ]


def _cut(text: str, tokenizer: Any, length: int) -> str:
    """`text` up to its `length`th token."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= length else text[: offsets[length - 1][1]]


def best(
    contexts: Sequence[str],
    found: Sequence[Window],
    scores: Sequence[tuple[Floats, Floats]],
    *,
    number: int,
    longest: int,
) -> list[list[tuple[str, float]]]:
    """For each context the `number` best answers of at most `longest` tokens, each with its probability.

    scores: per window the logits of each token to be the first and the last, two of (tokens,). A
    window's spans share its probability with the place that says `not in here`; the probability of
    an answer is that of all spans that read alike, of all spans of all windows of the context.
    """
    alike: list[dict[str, float]] = [{} for _ in contexts]
    totals = np.zeros(len(contexts))
    for window, (first, last) in zip(found, scores, strict=True):
        places = np.flatnonzero(window.inside)
        if not len(places):
            continue
        ends = np.pad(_softmax(last)[places], (0, longest - 1))
        spans = _softmax(first)[places, None] * np.lib.stride_tricks.sliding_window_view(ends, longest)
        totals[window.row] += spans.sum()
        for flat in np.argsort(-spans, axis=None, kind="stable")[: 2 * number]:
            begin, more = divmod(int(flat), longest)
            end = places[min(begin + more, len(places) - 1)]
            text = contexts[window.row][window.offsets[places[begin], 0] : window.offsets[end, 1]].strip()
            alike[window.row][text] = alike[window.row].get(text, 0.0) + float(spans.flat[flat])
    return [
        [(text, value / total) for text, value in sorted(each.items(), key=lambda item: -item[1])[:number]]
        for each, total in zip(alike, totals, strict=True)
    ]


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
