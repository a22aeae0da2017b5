"""Binary classification with one logit: the probability of the second of two classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning import calibration
from pretune.objectives.finetuning.classes import smooth
from pretune.objectives.finetuning.texts import TextObjective
from pretune.objectives.predictions import Classes
from pretune.objectives.requirements import COLUMNS
from pretune.predictor import text


class Binary(TextObjective):
    """Sigmoid of the logit, binary cross entropy in nats (torch's BCEWithLogitsLoss, summed)."""

    columns = COLUMNS["binary"]
    metrics = ("loss", "accuracy")
    answers = "binary"
    smooths = calibrates = True

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        if len(context.labels) != 2:
            raise DataError(
                f"the objective binary is for two labels, not {len(context.labels)}: {', '.join(context.labels)}",
                "finetune.objective: classification",
            )
        super().__init__(rows, context)

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:
        """One output, named after the second label."""
        return {"problem_type": "multi_label_classification", "id2label": {0: labels[1]}, "label2id": {labels[1]: 0}}

    def encode_targets(self, rows: Sequence[Row]) -> Tensor:
        """1 for the second label: (texts, 1) float32."""
        return torch.tensor([[float(self.context.labels.index(row["label"]))] for row in rows])

    @override
    def compute_metrics(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        smoothed = smooth(targets, smoothing)
        return {
            "loss": nn.functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="sum"),
            "accuracy": ((logits > 0) == (targets > 0)).sum(),
        }

    def _predictor(self, model: PreTrainedModel) -> text.Binary:
        return text.Binary(model, self.context.inputs, self.inference_config(self.context))

    @override
    def temperature(self, model: PreTrainedModel) -> float:
        logits = self._predictor(model).logits(self.rows)
        return calibration.temperature(logits, self.targets, nn.functional.binary_cross_entropy_with_logits)

    @override
    def predict(self, model: PreTrainedModel) -> Classes:
        second = self._predictor(model).probabilities(self.rows)[:, 0].numpy()
        targets = self.targets[:, 0].long().numpy()
        return Classes(self.context.labels, targets, np.stack([1 - second, second], axis=1))
