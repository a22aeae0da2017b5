"""Linear regression: f(x) = W x + b is trained to predict y, the loss is the sum of (f(x) - y)^2.

The pretrained W and b are kept if y has as many numbers as x.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from typing_extensions import override

from pretune.data.loading.arrays import Columns
from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.predictions import Numbers
from pretune.objectives.pretraining.reconstruction import NumberBatch, Reconstruction, number_batch, squared_error
from pretune.objectives.requirements import COLUMNS
from pretune.predictor.linear import Mapped


class LinearRegression(FinetuningObjective):
    """Rows of numbers x, each with its targets y."""

    auto = AutoModel
    columns = COLUMNS["linear_regression"]
    answers = "mapped"

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        for name, columns in (("x", context.inputs.x), ("y", context.labels)):
            wrong = [row.get("origin", number) for number, row in enumerate(rows) if len(row[name]) != len(columns)]
            if wrong:
                raise DataError(
                    f"row {wrong[0]}: {name} does not hold {len(columns)} numbers ({', '.join(columns)})",
                    "fix the data",
                )
        self.rows = rows
        self.x, self.y = (np.array([row[name] for row in rows], dtype=np.float32) for name in ("x", "y"))

    @classmethod
    def families(cls) -> list[str]:
        """Our own family alone."""
        return Reconstruction.families()

    @classmethod
    def inputs(cls, folder: Path) -> Columns:
        """The names of the columns."""
        return Columns.load(folder)

    @classmethod
    @override
    def shape(cls, inputs: Columns) -> dict[str, Any]:
        return Reconstruction.shape(inputs)

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:
        """One output for each column of y."""
        return {"outputs": len(labels)}

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return Reconstruction.example(context)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> NumberBatch:  # noqa: ARG002 - no random draws
        """These rows."""
        return number_batch(self.x[samples], self.y[samples])

    def loss(self, model: PreTrainedModel, batch: NumberBatch) -> Tensor:
        """The sum of squared errors."""
        return squared_error(model, batch)

    def score(self, model: PreTrainedModel, batch: NumberBatch) -> dict[str, Tensor]:
        """Sums over the rows, for validation."""
        return {"loss": squared_error(model, batch)}

    @override
    def predict(self, model: PreTrainedModel) -> Numbers:
        return Numbers(self.y, Mapped(model).numbers(self.rows).numpy())
