"""Linear regression: f(x) is to be y, the sum of (f(x) - y)^2. W and b go on from x where y has as many numbers."""

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
from pretune.objectives.pretraining.reconstruction import NumberBatch, Reconstruction, number_batch, squares
from pretune.predictor.linear import Mapped


class LinearRegression(FinetuningObjective):
    """Rows of numbers x, each with the numbers y that belong to it."""

    auto = AutoModel
    columns = ("x", "y")
    answers = "mapped"

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        for name, names in (("x", context.inputs.x), ("y", context.labels)):
            wrong = [row.get("origin", number) for number, row in enumerate(rows) if len(row[name]) != len(names)]
            if wrong:
                raise DataError(
                    f"row {wrong[0]}: {name} does not hold {len(names)} numbers ({', '.join(names)})", "mend the data"
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
        """As many outputs as y has columns."""
        return {"outputs": len(labels)}

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return Reconstruction.example(context)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> NumberBatch:  # noqa: ARG002 - nothing is drawn
        """These rows."""
        return number_batch(self.x[samples], self.y[samples])

    def loss(self, model: PreTrainedModel, batch: NumberBatch) -> Tensor:
        """The sum of squared errors."""
        return squares(model, batch)

    def score(self, model: PreTrainedModel, batch: NumberBatch) -> dict[str, Tensor]:
        """Sums over the rows, for validation."""
        return {"loss": squares(model, batch)}

    @override
    def predict(self, model: PreTrainedModel) -> Numbers:
        return Numbers(self.y, Mapped(model).numbers(self.rows).numpy())
