"""What the training loop asks of an objective."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel


class Batch(Protocol):
    """Rows that one forward pass takes."""

    @property
    def count(self) -> int:
        """What the loss is a sum over: predicted tokens, or labels."""

    @property
    def tokens(self) -> int:
        """Tokens that are read."""

    def to(self, device: torch.device) -> Any:
        """The same on another device."""


class Objective(Protocol):
    """What is learnt."""

    def __len__(self) -> int:
        """Samples of an epoch."""

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """A Batch of these samples, each in its epoch: a pure function of the seed and the two arrays."""

    def loss(self, model: PreTrainedModel, batch: Any) -> Tensor:
        """The sum of the losses over `batch.count`."""

    def score(self, model: PreTrainedModel, batch: Any) -> dict[str, Tensor]:
        """Sums over `batch.count` by which a model is judged, `loss` among them."""
