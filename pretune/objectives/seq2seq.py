"""Sequence to sequence (Sutskever et al. 2014): a text is read, its target is written. Translation is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pretune.data.rows import Row
from pretune.models import seq2seq
from pretune.models.seq2seq import Seq2SeqBatch
from pretune.objectives.base import Finetuning, Given
from pretune.objectives.predictions import Texts
from pretune.predictor.generation import Written
from pretune.settings import Section


class Seq2Seq(Finetuning):
    """Batches and loss; both texts are cut: at `given.length` tokens, and at `target_length`."""

    auto = AutoModelForSeq2SeqLM
    columns = ("text", "target")
    answers = "written"

    class Settings(Section):
        """target_length: tokens of a target at most. beams: of the search when the model writes; 1 is greedy."""

        target_length: Annotated[int, Field(ge=2)]
        beams: Annotated[int, Field(ge=1)]

    def __init__(self, rows: Sequence[Row], given: Given) -> None:
        self.rows, self.given = rows, given
        settings: Any = given.settings
        sources = given.inputs([row["text"] for row in rows], truncation=True, max_length=given.length)
        targets = given.inputs(
            text_target=[row["target"] for row in rows], truncation=True, max_length=settings.target_length
        )
        self.sources, self.targets = ([np.array(ids) for ids in each["input_ids"]] for each in (sources, targets))

    @classmethod
    def families(cls) -> list[str]:
        """See Kind."""
        return sorted(seq2seq.FAMILIES)

    @classmethod
    def facts(cls, given: Given) -> dict[str, Any]:
        """See Kind."""
        own: dict[str, Any] = given.settings.model_dump()
        return super().facts(given) | own

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Seq2SeqBatch:  # noqa: ARG002 - nothing is drawn
        """These rows, padded."""
        chosen = ([each[sample] for sample in samples] for each in (self.sources, self.targets))
        return seq2seq.batch(*chosen, padding=int(self.given.inputs.pad_token_id))

    def loss(self, model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
        """Sum of the cross entropies in nats over the targets' tokens."""
        return seq2seq.token_loss(model, batch)

    def score(self, model: PreTrainedModel, batch: Seq2SeqBatch) -> dict[str, Tensor]:
        """Sums over the targets' tokens, for validation."""
        return {"loss": seq2seq.token_loss(model, batch)}

    def predict(self, model: PreTrainedModel) -> Texts:
        """See Finetuning."""
        written = Written(model, self.given.inputs, self.facts(self.given))(self.rows)
        return Texts([row["target"] for row in self.rows], [row["target"] for row in written])
