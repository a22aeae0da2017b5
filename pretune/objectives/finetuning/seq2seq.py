"""Sequence to sequence (Sutskever et al. 2014): a target text is generated from a source text, as in translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.rows import Row
from pretune.models import seq2seq
from pretune.models.seq2seq import Seq2SeqBatch
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.generated import METRICS
from pretune.objectives.predictions import Texts
from pretune.objectives.requirements import COLUMNS
from pretune.predictor.generation import Written


class Seq2Seq(FinetuningObjective):
    """Cross entropy of the target's tokens. Sources are cut at `context.length` tokens, targets at `target_length`."""

    auto = AutoModelForSeq2SeqLM
    columns = COLUMNS["seq2seq"]
    answers = "written"
    generated = METRICS
    answers_untrained = True

    class Settings(Section):
        """target_length: maximum tokens of a target. beams: of the search in generation; 1 is greedy."""

        target_length: Annotated[int, Field(ge=2)]
        beams: Annotated[int, Field(ge=1)]

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        settings: Any = context.settings
        sources = context.inputs([row["text"] for row in rows], truncation=True, max_length=context.length)
        targets = context.inputs(
            text_target=[row["target"] for row in rows], truncation=True, max_length=settings.target_length
        )
        self.sources, self.targets = ([np.array(ids) for ids in encoded["input_ids"]] for encoded in (sources, targets))

    @classmethod
    @override
    def families(cls) -> list[str]:
        return sorted(seq2seq.FAMILIES)

    @classmethod
    @override
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        settings: dict[str, Any] = context.settings.model_dump()
        return super().inference_config(context) | settings

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Seq2SeqBatch:  # noqa: ARG002 - no random draws
        """These rows, padded."""
        sources, targets = ([texts[sample] for sample in samples] for texts in (self.sources, self.targets))
        return seq2seq.batch(sources, targets, padding=int(self.context.inputs.pad_token_id))

    def loss(self, model: PreTrainedModel, batch: Seq2SeqBatch) -> Tensor:
        """Sum of the cross entropies in nats over the targets' tokens."""
        return seq2seq.token_loss(model, batch)

    def score(self, model: PreTrainedModel, batch: Seq2SeqBatch) -> dict[str, Tensor]:
        """Sums over the targets' tokens, for validation."""
        return {"loss": seq2seq.token_loss(model, batch)}

    @override
    def predict(self, model: PreTrainedModel) -> Texts:
        generated = Written(model, self.context.inputs, self.inference_config(self.context))(self.rows)
        return Texts([row["target"] for row in self.rows], [row["target"] for row in generated])
