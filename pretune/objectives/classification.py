"""Classification: one of several classes for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from pretune.data.rows import Row
from pretune.objectives import calibration
from pretune.objectives.predictions import Classes
from pretune.objectives.texts import Texts, class_scores, label_names
from pretune.predictor import text


class Classification(Texts):
    """Softmax over the classes, cross entropy in nats."""

    columns = ("text", "label")
    metrics = ("loss", "accuracy")
    answers = "class"
    smooths = calibrates = True

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:
        """See Kind."""
        return {"problem_type": "single_label_classification"} | label_names(labels)

    def wanted(self, rows: Sequence[Row]) -> Tensor:
        """The number of each label: (texts,) int64."""
        return torch.tensor([self.given.labels.index(row["label"]) for row in rows])

    def scores(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        """See Texts."""
        return class_scores(logits, targets, smoothing)

    def temperature(self, model: PreTrainedModel) -> float:
        """See Finetuning."""
        logits = text.Class(model, self.given.inputs, self.facts(self.given)).logits(self.rows)
        return calibration.temperature(logits, self.targets, functional.cross_entropy)

    def predict(self, model: PreTrainedModel) -> Classes:
        """See Finetuning."""
        found = text.Class(model, self.given.inputs, self.facts(self.given)).probabilities(self.rows)
        return Classes(self.given.labels, self.targets.numpy(), found.numpy())
