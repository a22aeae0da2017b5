"""Classification: one of several classes for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.rows import Row
from pretune.objectives.finetuning import calibration
from pretune.objectives.finetuning.classes import class_metrics, label_names
from pretune.objectives.finetuning.texts import TextObjective
from pretune.objectives.predictions import Classes
from pretune.objectives.requirements import COLUMNS
from pretune.predictor import text


class Classification(TextObjective):
    """Softmax over the classes, cross entropy in nats."""

    columns = COLUMNS["classification"]
    metrics = ("loss", "accuracy")
    answers = "class"
    smooths = calibrates = True

    @classmethod
    @override
    def head(cls, labels: list[str]) -> dict[str, Any]:
        return {"problem_type": "single_label_classification"} | label_names(labels)

    def encode_targets(self, rows: Sequence[Row]) -> Tensor:
        """The id of each label: (texts,) int64."""
        return torch.tensor([self.context.labels.index(row["label"]) for row in rows])

    @override
    def compute_metrics(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        return class_metrics(logits, targets, smoothing)

    def _predictor(self, model: PreTrainedModel) -> text.Class:
        return text.Class(model, self.context.inputs, self.inference_config(self.context))

    @override
    def temperature(self, model: PreTrainedModel) -> float:
        logits = self._predictor(model).logits(self.rows)
        return calibration.temperature(logits, self.targets, functional.cross_entropy)

    @override
    def predict(self, model: PreTrainedModel) -> Classes:
        probabilities = self._predictor(model).probabilities(self.rows)
        return Classes(self.context.labels, self.targets.numpy(), probabilities.numpy())
