"""Multi-label classification: any number of the classes for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from typing_extensions import override

from pretune.data.rows import Row
from pretune.objectives.finetuning import calibration
from pretune.objectives.finetuning.classes import label_names, smooth
from pretune.objectives.finetuning.texts import TextObjective
from pretune.objectives.predictions import ManyLabels
from pretune.objectives.requirements import COLUMNS
from pretune.predictor import text


class MultiLabel(TextObjective):
    """A sigmoid for each class; the mean over the classes of the binary cross entropies in nats."""

    columns = COLUMNS["multi_label"]
    metrics = ("loss", "exact_match")
    answers = "labels"
    smooths = calibrates = True

    @classmethod
    @override
    def head(cls, labels: list[str]) -> dict[str, Any]:
        return {"problem_type": "multi_label_classification"} | label_names(labels)

    def encode_targets(self, rows: Sequence[Row]) -> Tensor:
        """1 for each class of a text: (texts, classes) float32."""
        return torch.tensor([[float(name in row["labels"]) for name in self.context.labels] for row in rows])

    def compute_metrics(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        """As in TextObjective; exact_match counts the texts whose classes are all predicted correctly."""
        smoothed = smooth(targets, smoothing)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
        correct = (logits > 0) == (targets > 0)
        return {"loss": losses.mean(dim=-1).sum(), "exact_match": correct.all(dim=-1).sum()}

    def _predictor(self, model: PreTrainedModel) -> text.Labels:
        return text.Labels(model, self.context.inputs, self.inference_config(self.context))

    @override
    def temperature(self, model: PreTrainedModel) -> float:
        logits = self._predictor(model).logits(self.rows)
        return calibration.temperature(logits, self.targets, nn.functional.binary_cross_entropy_with_logits)

    @override
    def predict(self, model: PreTrainedModel) -> ManyLabels:
        probabilities = self._predictor(model).probabilities(self.rows)
        return ManyLabels(self.context.labels, (self.targets > 0).numpy(), probabilities.numpy())
