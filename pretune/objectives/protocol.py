"""What the training loop expects of an objective."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel


class Batch(Protocol):
    """Rows for one forward pass."""

    @property
    def count(self) -> float:
        """Number of terms in the loss: predicted tokens, or labels; the sum of their weights if they have any."""

    @property
    def tokens(self) -> int:
        """Input tokens."""

    def to(self, device: torch.device) -> Any:
        """The batch on another device."""


class Objective(Protocol):
    """What a model is trained on: samples and a loss."""

    def __len__(self) -> int:
        """Samples in an epoch."""

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """A Batch of these samples, each in its epoch: (rows,) both; a pure function of the seed and the arguments."""

    def costliest(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """A batch on which `loss` costs as much as it can."""

    def loss(self, model: PreTrainedModel, batch: Any) -> Tensor:
        """The sum of the losses over `batch.count`."""

    def score(self, model: PreTrainedModel, batch: Any) -> dict[str, Tensor]:
        """Sums over `batch.count` of the validation metrics, `loss` among them."""
