"""The predictor of extractive question answering: windows over long contexts, and the best spans of all windows."""

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

    row: index of its row. ids, types: (tokens,) int64. offsets: (tokens, 2) int64, start and end of each token in
    characters of the context. inside: (tokens,) bool, True for tokens of the context.
    """

    row: int
    ids: Ids
    types: Ids
    offsets: Ids
    inside: npt.NDArray[np.bool_]

    def token_span(self, start: int, end: int) -> tuple[int, int]:
        """First and last token of the characters from `start` to `end`; (0, 0) if the window lacks some of them."""
        touched = np.flatnonzero(self.inside & (self.offsets[:, 0] < end) & (self.offsets[:, 1] > start))
        if not len(touched) or self.offsets[touched[0], 0] > start or self.offsets[touched[-1], 1] < end:
            return 0, 0
        return int(touched[0]), int(touched[-1])


class Answered(Text):
    """Predicts the best answers to each question, spans of its context, with their probabilities; "" is no answer."""

    auto = "AutoModelForQuestionAnswering"
    reads: ClassVar[dict[str, str]] = {"question": "string", "context": "string"}
    gives: ClassVar[dict[str, str]] = {
        "answer": "string", "score": "double", "answers": "list(string)", "scores": "list(double)",
    }  # fmt: skip

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One output row for each row, in the same order; `answer` is "" for no answer or no tokens."""
        answers = []
        for best in self.best(rows):
            text, score = best[0] if best else ("", 0.0)
            answers.append(
                {"answer": text, "score": score, "answers": [t for t, _ in best], "scores": [p for _, p in best]}
            )
        return answers

    def best(self, rows: Sequence[Row]) -> list[list[tuple[str, float]]]:
        """The best answers of each row with their probabilities, the predicted one first.

        With `null_threshold` in pretune.json, as of a model trained on questions some of which have no answer,
        "" is one of those to choose from, and stands for no answer.
        """
        answers, margins = self.spans(rows)
        threshold = self.inference_config.get("null_threshold")
        if threshold is None:
            return answers
        number = self.inference_config["best"]
        return [with_null(spans, margin - threshold, number) for spans, margin in zip(answers, margins, strict=True)]

    def spans(self, rows: Sequence[Row]) -> tuple[list[list[tuple[str, float]]], list[float]]:
        """The best spans of each row with their probabilities, the likeliest first, and its margin (`margins`)."""
        if not rows:
            return [], []
        config = self.inference_config
        parts = windows(rows, self.tokenizer, length=config["length"], overlap=config["overlap"])
        contexts, logits = [row["context"] for row in rows], self._logits(parts)
        answers = best(contexts, parts, logits, number=config["best"], longest=config["longest"])
        return answers, margins(len(rows), parts, logits, longest=config["longest"])

    def _logits(self, parts: Sequence[Window]) -> list[tuple[Floats, Floats]]:
        """For each window the logits of its tokens to be first and last; windows of similar length share a batch."""
        order = sorted(range(len(parts)), key=lambda index: len(parts[index].ids))
        logits: dict[int, tuple[Floats, Floats]] = {}
        with torch.inference_mode():
            for start in range(0, len(order), ROWS):
                indices = order[start : start + ROWS]
                output = self.model(**self._padded([parts[index] for index in indices]))
                for row, index in enumerate(indices):
                    length = len(parts[index].ids)
                    ends = (tensor[row, :length] for tensor in (output.start_logits, output.end_logits))
                    first, last = (tensor.double().cpu().numpy() for tensor in ends)
                    logits[index] = first, last
        return [logits[index] for index in range(len(parts))]

    def _padded(self, parts: Sequence[Window]) -> dict[str, Tensor]:
        """The model's input: (windows, longest) int64 each."""
        shape = len(parts), max(len(window.ids) for window in parts)
        ids = torch.full(shape, int(self.tokenizer.pad_token_id))
        types, real = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        for row, window in enumerate(parts):
            ids[row, : len(window.ids)] = torch.from_numpy(window.ids)
            types[row, : len(window.ids)] = torch.from_numpy(window.types)
            real[row, : len(window.ids)] = 1
        batch = {"input_ids": ids, "attention_mask": real}
        if getattr(self.model.config, "type_vocab_size", 0) > 1:
            batch["token_type_ids"] = types
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}


def windows(rows: Sequence[Row], tokenizer: Any, *, length: int, overlap: int) -> list[Window]:
    """Windows of `length` tokens: each row's question with a part of its context, adjacent ones share `overlap` tokens.

    A question is cut at half of `length`, the overlap at a quarter.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    questions = [_cut(row["question"], tokenizer, length // 2 - special) for row in rows]
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
    """The first `length` tokens of `text`."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text if len(offsets) <= length else text[: offsets[length - 1][1]]


def best(
    contexts: Sequence[str],
    parts: Sequence[Window],
    logits: Sequence[tuple[Floats, Floats]],
    *,
    number: int,
    longest: int,
) -> list[list[tuple[str, float]]]:
    """For each context the `number` best answers of at most `longest` tokens, each with its probability.

    parts: the windows of all contexts. logits: for each window those of its tokens to be the first and the last,
    two of (tokens,). A window's softmax is over all of its tokens, so a window without the answer can give its
    probability to the first one. Probabilities of spans with the same text are added, then divided by the sum of
    all spans of all windows of the context.
    """
    answers: list[dict[str, float]] = [{} for _ in contexts]
    totals = np.zeros(len(contexts))
    for window, (first, last) in zip(parts, logits, strict=True):
        positions = np.flatnonzero(window.inside)
        if not len(positions):
            continue
        ends = np.pad(_softmax(last)[positions], (0, longest - 1))
        spans = _softmax(first)[positions, None] * np.lib.stride_tricks.sliding_window_view(ends, longest)
        totals[window.row] += spans.sum()
        for flat in np.argsort(-spans, axis=None, kind="stable")[: 2 * number]:
            begin, more = divmod(int(flat), longest)
            end = positions[min(begin + more, len(positions) - 1)]
            text = contexts[window.row][window.offsets[positions[begin], 0] : window.offsets[end, 1]].strip()
            answers[window.row][text] = answers[window.row].get(text, 0.0) + float(spans.flat[flat])
    return [
        [(text, value / total) for text, value in sorted(by_text.items(), key=lambda item: -item[1])[:number]]
        for by_text, total in zip(answers, totals, strict=True)
    ]


def margins(
    rows: int, parts: Sequence[Window], logits: Sequence[tuple[Floats, Floats]], *, longest: int
) -> list[float]:
    """For each row by how much no answer scores above the best span (Devlin et al. 2019, section 4.3), in logits.

    A score is the sum of the logits of the first and the last token; that of no answer is at the first token of the
    window. As in the authors' code, the lowest of all windows counts for no answer, and the highest for a span.
    Infinite for a context without tokens.
    """
    null, span = np.full(rows, np.inf), np.full(rows, -np.inf)
    for window, (first, last) in zip(parts, logits, strict=True):
        null[window.row] = min(null[window.row], first[0] + last[0])
        if window.inside.any():
            ends = np.pad(last[window.inside], (0, longest - 1), constant_values=-np.inf)
            highest = np.lib.stride_tricks.sliding_window_view(ends, longest).max(axis=1)
            span[window.row] = max(span[window.row], (first[window.inside] + highest).max())
    return list((null - span).tolist())


def with_null(spans: Sequence[tuple[str, float]], margin: float, number: int) -> list[tuple[str, float]]:
    """The answers of a row with "" among them: first if the `margin` is above 0, otherwise after the best span.

    margin: above the threshold. spans: the answers with their probabilities if there is one. The probability of ""
    is that of no answer against the best span, above one half if it comes first; that of a span is multiplied by the
    remainder.
    """
    none = float(0.5 + 0.5 * np.tanh(margin / 2))
    scored = [(text, value * (1 - none)) for text, value in spans if text]
    if not scored:
        return [("", 1.0)]
    if margin > 0:
        return [("", none), *scored][:number]
    predicted, *others = scored
    return [predicted, *sorted([*others, ("", none)], key=lambda answer: -answer[1])][:number]


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())
