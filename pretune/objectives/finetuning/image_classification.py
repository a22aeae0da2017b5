"""Image classification (Dosovitskiy et al. 2021): one label for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageClassification, PreTrainedModel
from typing_extensions import override

from pretune.data.loading.batch import Movable
from pretune.data.rows import Row
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.finetuning import calibration
from pretune.objectives.finetuning.classes import class_metrics, label_names
from pretune.objectives.images import ImageObjective, decode
from pretune.objectives.predictions import Classes
from pretune.objectives.requirements import COLUMNS
from pretune.predictor.images import ImageClass


@dataclass(frozen=True)
class ImageBatch(Movable):
    """pixel_values: (images, channels, size, size) float32; targets: (images,) int64."""

    pixel_values: Tensor
    targets: Tensor

    @property
    def count(self) -> int:
        """Images that the loss is summed over."""
        return len(self.targets)

    @property
    def tokens(self) -> int:
        """Input images."""
        return len(self.targets)


class ImageClassification(ImageObjective, FinetuningObjective):
    """Softmax over the classes, cross entropy in nats. Images are kept as bytes and normalised in their batch."""

    auto = AutoModelForImageClassification
    columns = COLUMNS["image_classification"]
    metrics = ("loss", "accuracy")
    answers = "image_class"
    smooths = calibrates = True

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.context = context
        self.pixels = decode(rows, context.inputs)
        self.targets = np.array([context.labels.index(row["label"]) for row in rows])

    @classmethod
    @override
    def head(cls, labels: list[str]) -> dict[str, Any]:
        return {"problem_type": "single_label_classification"} | label_names(labels)

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> ImageBatch:  # noqa: ARG002 - no random draws
        """These images."""
        values = self.context.inputs.values(self.pixels[samples])
        return ImageBatch(torch.from_numpy(values), torch.from_numpy(self.targets[samples]))

    def loss(self, model: PreTrainedModel, batch: ImageBatch) -> Tensor:
        """Sum of the cross entropies in nats over the images."""
        return self._metrics(model, batch, self.context.label_smoothing)["loss"]

    def score(self, model: PreTrainedModel, batch: ImageBatch) -> dict[str, Tensor]:
        """Sums over the images, for validation."""
        return self._metrics(model, batch, 0.0)

    def _metrics(self, model: PreTrainedModel, batch: ImageBatch, smoothing: float) -> dict[str, Tensor]:
        logits = model(pixel_values=batch.pixel_values).logits.float()
        return class_metrics(logits, batch.targets, smoothing)

    def _predictor(self, model: PreTrainedModel) -> ImageClass:
        return ImageClass(model, self.context.inputs, self.inference_config(self.context))

    @override
    def temperature(self, model: PreTrainedModel) -> float:
        logits = self._predictor(model).outputs(self.pixels)
        return calibration.temperature(logits, torch.from_numpy(self.targets), functional.cross_entropy)

    @override
    def predict(self, model: PreTrainedModel) -> Classes:
        probabilities = self._predictor(model).probabilities(self.pixels)
        return Classes(self.context.labels, self.targets, probabilities.numpy())
