"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): answers that are good or bad, no pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.config.section import Positive
from pretune.data.loading.batch import Movable
from pretune.data.rows import Row, last_answer
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.completions import Completions, collate, log_probs
from pretune.objectives.finetuning.chat import ChatObjective, ChatSettings
from pretune.objectives.finetuning.preferences import encode, kept, told
from pretune.objectives.predictions import Judgements
from pretune.objectives.requirements import COLUMNS


@dataclass(frozen=True)
class JudgedBatch(Movable):
    """Answers, the same prompts with answers to others, whether an answer is desirable, and the reference.

    desirable: (rows,) bool. reference: (2, rows) float32, the log-probabilities of `answers` and `mismatched` under
    the model that training started from.
    """

    answers: Completions
    mismatched: Completions
    desirable: Tensor
    reference: Tensor

    @property
    def count(self) -> int:
        """Answers that the loss is summed over."""
        return len(self.desirable)

    @property
    def tokens(self) -> int:
        """Input tokens."""
        return len(self.answers.packed.input_ids) + len(self.mismatched.packed.input_ids)


class Kto(ChatObjective):
    """A desirable answer should be likelier than under the reference by more than the model is in general (eq. 7, 8).

    What it is in general, KL(model, reference), is estimated for a batch from its prompts with answers to other
    prompts, which give no gradient.
    """

    columns = COLUMNS["kto"]
    metrics = ("loss", "accuracy")
    referenced = True
    whole_batch = True

    class Settings(ChatSettings):
        """beta: how strongly the model is tied to the reference. The weights balance good and bad rows (eq. 9)."""

        beta: Positive
        desirable_weight: Positive
        undesirable_weight: Positive

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        ends = [last_answer(row["messages"]) for row in rows]
        prompts = [row["messages"][:end] for row, end in zip(rows, ends, strict=True)]
        answers = [row["messages"][end : end + 1] for row, end in zip(rows, ends, strict=True)]
        others = [answers[mismatch(prompts, row)] for row in range(len(rows))]
        both = (encode(list(zip(rows, prompts, which, strict=True)), context) for which in (answers, others))
        self.encoded = list(zip(*both, strict=True))
        self.kept = kept([pair[:1] for pair in self.encoded], context)

    @override
    def told(self) -> tuple[list[str], dict[str, float]]:
        return told(len(self.encoded), len(self.kept), self.context)

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> JudgedBatch:  # noqa: ARG002 - no random draws
        """These rows."""
        rows = [self.kept[sample] for sample in samples]
        desirable = torch.tensor([self.rows[row]["desirable"] for row in rows])
        reference = torch.tensor([self.rows[row]["reference"] for row in rows], dtype=torch.float32).T
        return JudgedBatch(self._completions(rows, 0), self._completions(rows, 1), desirable, reference)

    def _completions(self, rows: Sequence[int], which: int) -> Completions:
        return collate([self.encoded[row][which] for row in rows])

    def loss(self, model: PreTrainedModel, batch: JudgedBatch) -> Tensor:
        """The sum over the answers."""
        return self._losses(model, batch)[0].sum()

    def score(self, model: PreTrainedModel, batch: JudgedBatch) -> dict[str, Tensor]:
        """Sums over the answers; accuracy: whether an answer is above the KL if it is desirable, else below."""
        losses, margins = self._losses(model, batch)
        return {"loss": losses.sum(), "accuracy": ((margins > 0) == batch.desirable).sum()}

    def _losses(self, model: PreTrainedModel, batch: JudgedBatch) -> tuple[Tensor, Tensor]:
        """The loss of each answer, and its implicit reward above the KL, divided by beta: (rows,) both."""
        settings = self.context.settings
        with torch.no_grad():
            divergence = (batch.mismatched.log_probs(model) - batch.reference[1]).mean().clamp(min=0)
        margins = batch.answers.log_probs(model) - batch.reference[0] - divergence
        weights = torch.where(batch.desirable, settings.desirable_weight, settings.undesirable_weight)
        signs = torch.where(batch.desirable, 1.0, -1.0)
        return weights * (1 - torch.sigmoid(settings.beta * signs * margins)), margins

    def log_probs(
        self, model: PreTrainedModel, told: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """The log-probabilities of each answer and of the mismatched one, 0 where it is cut off: (rows, 2)."""
        return log_probs(model, [answer for pair in self.encoded for answer in pair], told).reshape(-1, 2)

    def predict(self, model: PreTrainedModel) -> Judgements:
        """Each answer in nats per token."""
        targets = np.array([row["desirable"] for row in self.rows], dtype=bool)
        lengths = np.array([max(1, int(pair[0][1].sum())) for pair in self.encoded])
        return Judgements(targets, self.log_probs(model)[:, 0] / lengths)


def mismatch(prompts: Sequence[list[Row]], row: int) -> int:
    """The row before `row`, in a circle, whose prompt is another one; `row` itself if all are the same."""
    before = ((row - distance) % len(prompts) for distance in range(1, len(prompts)))
    return next((other for other in before if prompts[other] != prompts[row]), row)
