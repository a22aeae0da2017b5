"""The smallest family: f(x) = W x + b on numeric columns, in transformers' folder format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class LinearConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers has no types
    """`inputs` numbers go in, `outputs` come out; W starts normal with `initializer_range`, b at zero."""

    model_type = "linear"

    def __init__(self, inputs: int = 1, outputs: int = 1, initializer_range: float = 0.02, **rest: Any) -> None:
        self.inputs, self.outputs, self.initializer_range = inputs, outputs, initializer_range
        super().__init__(**rest)


@dataclass
class LinearOutput(ModelOutput):  # type: ignore[misc]  # transformers has no types
    """loss: the sum of squared errors, where there is a `y` to compare with; predictions: (rows, outputs)."""

    loss: Tensor | None = None
    predictions: Tensor | None = None


class LinearModel(PreTrainedModel):  # type: ignore[misc]  # transformers has no types
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
        loss = None if y is None else (predictions - y).square().sum()
        return LinearOutput(loss, predictions)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)


AutoConfig.register("linear", LinearConfig)
AutoModel.register(LinearConfig, LinearModel)
