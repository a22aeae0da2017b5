"""The smallest family, f(x) = W x + b on numeric columns, in transformers' format; and its predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

Row = dict[str, Any]


class LinearConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """W: (outputs, inputs), initialised from a normal distribution with deviation `initializer_range`; b: zeros."""

    model_type = "linear"

    inputs: int = 1
    outputs: int = 1
    initializer_range: float = 0.02


@dataclass
class LinearOutput(ModelOutput):  # type: ignore[misc]
    """loss: the sum of squared errors, None without `y`; predictions: (rows, outputs)."""

    loss: Tensor | None = None
    predictions: Tensor | None = None


class LinearModel(PreTrainedModel):  # type: ignore[misc]
    """f(x) = W x + b."""

    config_class = LinearConfig
    base_model_prefix = "linear"
    main_input_name = "x"

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.map = nn.Linear(config.inputs, config.outputs)
        self.post_init()

    def forward(self, x: Tensor, y: Tensor | None = None, **_: Any) -> LinearOutput:
        """x: (rows, inputs); y: (rows, outputs)."""
        predictions = self.map(x)
        loss = None if y is None else (predictions.float() - y).square().sum()
        return LinearOutput(loss, predictions)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)


class Mapped:
    """f(x) for each row."""

    reads: ClassVar[dict[str, str]] = {"x": "list(double)"}
    gives: ClassVar[dict[str, str]] = {"y": "list(double)"}

    def __init__(self, model: Any) -> None:
        self.model = model

    @classmethod
    def load(cls, folder: str, inference_config: Row) -> Self:  # noqa: ARG003 - it has no settings
        """Load the model that `save` wrote to `folder`."""
        return cls(LinearModel.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval())

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One output row for each row, in the same order."""
        return [{"y": y} for y in self.numbers(rows).tolist()] if rows else []

    def numbers(self, rows: Sequence[Row]) -> Tensor:
        """The predictions: (rows, outputs) float32."""
        x = torch.tensor([[float(value) for value in row["x"]] for row in rows], dtype=torch.float32)
        with torch.inference_mode():
            predictions: Tensor = self.model(x=x.to(self.model.device)).predictions.float().cpu()
        return predictions
