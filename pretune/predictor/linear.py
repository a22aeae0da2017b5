"""The smallest family: f(x) = W x + b on numeric columns, in transformers' folder format; and how it answers."""

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
    """`inputs` numbers go in, `outputs` come out; W starts normal with `initializer_range`, b at zero."""

    model_type = "linear"

    inputs: int = 1
    outputs: int = 1
    initializer_range: float = 0.02


@dataclass
class LinearOutput(ModelOutput):  # type: ignore[misc]
    """loss: the sum of squared errors, where there is a `y` to compare with; predictions: (rows, outputs)."""

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
    def load(cls, folder: str, inference_config: Row) -> Self:  # noqa: ARG003 - it needs none
        """What `save` left in `folder`."""
        return cls(LinearModel.from_pretrained(folder, use_safetensors=True, local_files_only=True).eval())

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One answer for each row, in their order."""
        return [{"y": y} for y in self.numbers(rows).tolist()] if rows else []

    def numbers(self, rows: Sequence[Row]) -> Tensor:
        """(rows, outputs) float32."""
        x = torch.tensor([[float(value) for value in row["x"]] for row in rows], dtype=torch.float32)
        with torch.inference_mode():
            found: Tensor = self.model(x=x.to(self.model.device)).predictions.float().cpu()
        return found
