"""Reconstruction: f(x) = W x + b is trained to predict x itself, the loss is the sum of (f(x) - x)^2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from typing_extensions import override

from pretune.data.loading.arrays import Columns, Samples
from pretune.data.loading.batch import Movable
from pretune.objectives.base import ObjectiveContext, PretrainingObjective


@dataclass(frozen=True)
class NumberBatch(Movable):
    """x: (rows, inputs) float32; y: (rows, outputs) float32."""

    x: Tensor
    y: Tensor

    @property
    def count(self) -> int:
        """Rows that the loss is summed over."""
        return len(self.x)

    @property
    def tokens(self) -> int:
        """Input numbers."""
        return self.x.numel()


def number_batch(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> NumberBatch:
    """Both as float32."""
    return NumberBatch(*(torch.from_numpy(np.asarray(array, dtype=np.float32)) for array in (x, y)))


class Reconstruction(PretrainingObjective):
    """Rows of numbers, without labels."""

    auto = AutoModel
    answers = "mapped"

    def __init__(self, numbers: Samples) -> None:
        self.numbers = numbers

    @classmethod
    def families(cls) -> list[str]:
        """Our own family alone."""
        return ["linear"]

    @classmethod
    def inputs(cls, folder: Path) -> Columns:
        """The names of the columns."""
        return Columns.load(folder)

    @classmethod
    def shape(cls, inputs: Columns) -> dict[str, Any]:
        """As many outputs as inputs."""
        return {"inputs": len(inputs.x), "outputs": len(inputs.x)}

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> dict[str, Any]:
        return {"x": [0.0] * len(context.inputs.x)}

    @classmethod
    @override
    def samples(cls, folder: Path, context: ObjectiveContext) -> Samples:
        return Samples.open(folder / "x.npy")

    @classmethod
    @override
    def of(cls, samples: Samples, context: ObjectiveContext) -> Self:
        return cls(samples)

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> NumberBatch:  # noqa: ARG002 - no random draws
        """These rows, each its own target."""
        x = self.numbers.rows(samples)
        return number_batch(x, x)

    def loss(self, model: PreTrainedModel, batch: NumberBatch) -> Tensor:
        """The sum of squared errors."""
        return squared_error(model, batch)

    def score(self, model: PreTrainedModel, batch: NumberBatch) -> dict[str, Tensor]:
        """Sums over the rows, for validation."""
        return {"loss": squared_error(model, batch)}


def squared_error(model: PreTrainedModel, batch: NumberBatch) -> Tensor:
    """The sum of (f(x) - y)^2."""
    loss: Tensor = model(x=batch.x, y=batch.y).loss
    return loss
