"""Regression: a number for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.rows import Row
from pretune.objectives.finetuning.texts import TextObjective
from pretune.objectives.predictions import Numbers
from pretune.objectives.requirements import COLUMNS
from pretune.predictor import text


class Regression(TextObjective):
    """The squared error; targets are not scaled."""

    columns = COLUMNS["regression"]
    answers = "number"

    @classmethod
    @override
    def head(cls, labels: list[str]) -> dict[str, Any]:
        return {"problem_type": "regression", "id2label": {0: "score"}, "label2id": {"score": 0}}

    def encode_targets(self, rows: Sequence[Row]) -> Tensor:
        """The numbers: (texts, 1) float32."""
        return torch.tensor([[row["score"]] for row in rows], dtype=torch.float32)

    @override
    def compute_metrics(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(logits, targets, reduction="sum")}

    @override
    def predict(self, model: PreTrainedModel) -> Numbers:
        predicted = text.Number(model, self.context.inputs, self.inference_config(self.context)).logits(self.rows)
        return Numbers(self.targets.numpy(), predicted.numpy())
