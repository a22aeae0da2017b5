"""Extractive question answering (Rajpurkar et al. 2016): the answer to a question is a span of its context.

A context longer than the model's input is split into overlapping windows. The target of a window without the answer
is its first token (Devlin et al. 2019). So is that of a question without an answer, whose `answers` are []
(Rajpurkar et al. 2018): a model trained on such questions also predicts that there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.varlen import pack
from pretune.data.rows import Row
from pretune.models import build, heads
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.finetuning import squad
from pretune.objectives.finetuning.texts import LabelledBatch
from pretune.objectives.predictions import Answers
from pretune.objectives.requirements import COLUMNS
from pretune.predictor.answers import Answered, windows


class QuestionAnswering(FinetuningObjective):
    """Cross entropy of the first and the last token of the answer. A sample is a window; a row's first answer counts.

    targets: (windows, 2) int64, first and last token.
    """

    auto = AutoModelForQuestionAnswering
    columns = COLUMNS["question_answering"]
    metrics = ("loss", "accuracy")
    answers = "answered"

    class Settings(Section):
        """overlap: tokens shared by adjacent windows. longest: maximum tokens of an answer. best: answers to return."""

        overlap: Annotated[int, Field(ge=0)]
        longest: Annotated[int, Field(ge=1)]
        best: Annotated[int, Field(ge=1)]

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        self.windows = windows(rows, context.inputs, length=context.length, overlap=context.settings.overlap)
        spans = [_span(row) for row in rows]
        self.targets = np.array([window.token_span(*spans[window.row]) for window in self.windows])

    @classmethod
    def families(cls) -> list[str]:
        """Encoders: a decoder has not read the rest of the context at the first token of the answer."""
        encoders = build.families(AutoModelForMaskedLM) - build.families(AutoModelForSeq2SeqLM)
        return sorted(build.families(cls.auto) & encoders)

    @classmethod
    @override
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        settings: dict[str, Any] = context.settings.model_dump()
        null = {} if context.null_threshold is None else {"null_threshold": context.null_threshold}
        return super().inference_config(context) | settings | null

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"question": "What is returned?", "context": "Return the absolute path of a file."}

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> LabelledBatch:  # noqa: ARG002 - no random draws
        """These windows, without padding."""
        chosen = [self.windows[sample] for sample in samples]
        ids, types = (np.concatenate([getattr(window, name) for window in chosen]) for name in ("ids", "types"))
        packed = pack(ids, np.array([len(window.ids) for window in chosen]), types if types.any() else None)
        return LabelledBatch(packed, torch.from_numpy(self.targets[samples]))

    def loss(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        """Sum over the windows of the mean of the cross entropies (nats) of first and last token."""
        return self.score(model, batch)["loss"]

    def score(self, model: PreTrainedModel, batch: LabelledBatch) -> dict[str, Tensor]:
        """Sums over the windows, for validation; accuracy counts those with both tokens correct."""
        logits = heads.spans(model, batch.packed)  # (windows, longest, 2)
        return {
            "loss": functional.cross_entropy(logits, batch.targets, reduction="sum") / 2,
            "accuracy": (logits.argmax(dim=1) == batch.targets).all(dim=1).sum(),
        }

    @override
    def fitted(self, model: PreTrainedModel, held_out: Callable[[], Sequence[Row]]) -> dict[str, Any]:
        """`null_threshold`, the margin above which there is no answer, if questions of these rows have none."""
        if all(row["answers"] for row in self.rows):
            return {}
        rows = held_out()
        spans, margins = self._predictor(model).spans(rows)
        with_span = [squad.f1(_texts(row), best[0][0] if best else "") for row, best in zip(rows, spans, strict=True)]
        return {"null_threshold": null_threshold(margins, with_span, [squad.f1(_texts(row), "") for row in rows])}

    @override
    def predict(self, model: PreTrainedModel) -> Answers:
        best = self._predictor(model).best(self.rows)
        targets = [_texts(row) for row in self.rows]
        return Answers(targets, [answers[0][0] if answers else "" for answers in best], best)

    def _predictor(self, model: PreTrainedModel) -> Answered:
        return Answered(model, self.context.inputs, self.inference_config(self.context))


def null_threshold(margins: Sequence[float], with_span: Sequence[float], without: Sequence[float]) -> float:
    """The threshold of the margins (predictor/answers.py) with the highest mean F1, rounded to four decimals.

    with_span, without: F1 of each row if its best span is predicted, and if no answer is. Of several thresholds that
    are equally good, the one closest to 0 counts; 0 without rows.
    """
    order = np.argsort(margins)
    ascending = np.asarray(margins, dtype=np.float64)[order]
    finite = ascending[np.isfinite(ascending)]
    ends = [finite[0] - 1, finite[-1] + 1] if len(finite) else []
    candidates = np.unique(np.round([0.0, *ends, *(finite[1:] + finite[:-1]) / 2], 4))
    with_spans, withouts = (np.append(0.0, np.cumsum(np.asarray(part)[order])) for part in (with_span, without))
    answered = np.searchsorted(ascending, candidates, side="right")
    scores = np.round(with_spans[answered] + withouts[-1] - withouts[answered], 9)
    return float(min(candidates[scores == scores.max()], key=abs))


def _texts(row: Row) -> list[str]:
    return [answer["text"] for answer in row["answers"]]


def _span(row: Row) -> tuple[int, int]:
    """Start and end of the first answer in characters; (0, 0) if there is none."""
    if not row["answers"]:
        return 0, 0
    answer = row["answers"][0]
    return answer["start"], answer["start"] + len(answer["text"])
