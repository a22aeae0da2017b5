"""Distillation (Hinton et al. 2015, arXiv:1503.02531): instruction tuning that also learns what a teacher holds likely.

The student predicts the tokens of the answers, and at each of them the teacher's distribution over its likeliest
tokens and the rest. The stage `teacher` has asked it beforehand. Without a teacher, as in the baseline from random
weights, the student learns from the answers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.config.section import Positive
from pretune.data.rows import Row
from pretune.models import heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.completions import log_probs
from pretune.objectives.conversations import Encoder
from pretune.objectives.finetuning.instruction import Instruction, conversation_of
from pretune.objectives.predictions import Replies
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.tokens import TokenBatch


@dataclass(frozen=True)
class TaughtBatch(TokenBatch):
    """A TokenBatch with the teacher's answer at each target, as `Teacher.at` returns it."""

    teacher: tuple[Tensor, Tensor] = field(kw_only=True)


class Distillation(Instruction):
    """(1 - weight) * cross entropy of the answers + weight * temperature^2 * divergence from the teacher."""

    columns = COLUMNS["distillation"]
    metrics = ("loss", "cross_entropy", "divergence")
    taught = True

    class Settings(Instruction.Settings):
        """weight: of the divergence. temperature: above 1, unlikely tokens count for more in it."""

        weight: Annotated[float, Field(ge=0, le=1)]
        temperature: Positive

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        super().__init__(rows, context)
        self.teacher = context.teacher

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        """The teacher's targets of each sample, from and to."""
        places: npt.NDArray[np.int64] = self.teacher.places(self.conversations.samples)
        return places

    @override
    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:
        batch = super().batch(epochs, samples)
        if self.teacher is None:
            return batch
        targets = np.concatenate([np.arange(*self._places[sample]) for sample in samples])
        return TaughtBatch(**vars(batch), teacher=self.teacher.at(targets))

    @override
    def loss(self, model: PreTrainedModel, batch: TokenBatch) -> Tensor:
        return self._losses(model, batch)[0]

    @override
    def score(self, model: PreTrainedModel, batch: TokenBatch) -> dict[str, Tensor]:
        return dict(zip(self.metrics, self._losses(model, batch), strict=True))

    @override
    def predict(self, model: PreTrainedModel) -> Replies:
        """The replies, and how likely the model finds the last answers as they were given."""
        texts = super().predict(model)
        encoder, length = Encoder(self.context.inputs, loss="last"), self.context.length
        nats, tokens = np.zeros(len(self.rows)), np.zeros(len(self.rows), dtype=np.int64)
        sequences, owners = [], []
        for place, row in enumerate(self.rows):
            for sample in encoder.conversation(conversation_of(row), row.get("tools")):
                sequences.append((sample.ids[:length], sample.weights[:length] != 0))
                owners.append(place)
        np.add.at(nats, owners, -log_probs(model, sequences).astype(np.float64))
        np.add.at(tokens, owners, [np.count_nonzero(answer) for _, answer in sequences])
        return Replies(texts.targets, texts.predicted, nats, tokens)

    def _losses(self, model: PreTrainedModel, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, cross entropy and divergence, sums over the targets by their weights, in nats."""
        if not isinstance(batch, TaughtBatch):
            loss = super().loss(model, batch)
            return loss, loss, loss.new_zeros(())
        settings = self.context.settings
        mix = {"share": settings.weight, "temperature": settings.temperature, "factors": batch.weights}
        return heads.token_distillation(model, batch.packed, batch.positions, batch.targets, batch.teacher, **mix)
