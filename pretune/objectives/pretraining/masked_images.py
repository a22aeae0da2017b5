"""Masked image modelling (SimMIM, Xie et al. 2022): predict the pixels of masked squares.

The same number of squares is masked in every image, and only their pixels are predicted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForMaskedImageModeling, PreTrainedModel
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.arrays import Samples
from pretune.data.loading.batch import Movable
from pretune.data.loading.counter_rng import uniform
from pretune.errors import ParamsError
from pretune.objectives.base import ObjectiveContext, PretrainingObjective
from pretune.objectives.images import ImageObjective
from pretune.predictor.pixels import Pipeline

POSITIONS = 1  # a stream of random numbers


@dataclass(frozen=True)
class MaskedImageBatch(Movable):
    """pixel_values: (images, channels, size, size) float32. hidden: (images, squares) bool.

    positions: (hidden,) int64, indices into the squares of all images.
    """

    pixel_values: Tensor
    hidden: Tensor
    positions: Tensor

    @property
    def count(self) -> int:
        """Squares that the loss is summed over."""
        return len(self.positions)

    @property
    def tokens(self) -> int:
        """Input squares."""
        return self.hidden.numel()


class MaskedImages(ImageObjective, PretrainingObjective):
    """L1 loss on masked squares; the mask of an image is a pure function of (seed, epoch, sample)."""

    auto = AutoModelForMaskedImageModeling
    answers = "embedded"

    class Settings(Section):
        """mask_rate: share of each image to mask. square: side of a masked square in pixels, a multiple of a patch."""

        mask_rate: Annotated[float, Field(gt=0, lt=1)]
        square: Annotated[int, Field(ge=1)]

    def __init__(self, images: Samples, pipeline: Pipeline, *, rate: float, square: int, seed: int) -> None:
        if pipeline.size % square:
            raise ParamsError(
                f"pretrain.settings.square: {square} does not divide the {pipeline.size} pixels of an image's side"
            )
        self.images, self.pipeline, self.seed = images, pipeline, seed
        self.squares = (pipeline.size // square) ** 2
        self.hidden = min(max(1, round(rate * self.squares)), self.squares)

    @classmethod
    def families(cls) -> list[str]:
        """ViT, the only family with one state for each patch."""
        return ["vit"]

    @classmethod
    @override
    def samples(cls, folder: Path, context: ObjectiveContext) -> Samples:
        return Samples.open(folder / "images.npy")

    @classmethod
    @override
    def of(cls, samples: Samples, context: ObjectiveContext) -> Self:
        settings: Any = context.settings
        return cls(samples, context.inputs, rate=settings.mask_rate, square=settings.square, seed=context.seed)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> MaskedImageBatch:
        """These images, with some of their squares masked; the mask depends on the epoch."""
        order = np.argsort(uniform((self.seed, POSITIONS), epochs, samples, self.squares), axis=1)
        hidden = np.zeros(order.shape, dtype=np.bool_)
        np.put_along_axis(hidden, order[:, : self.hidden], values=True, axis=1)
        values = self.pipeline.values(self.images.rows(samples))
        return MaskedImageBatch(
            torch.from_numpy(values), torch.from_numpy(hidden), torch.from_numpy(np.flatnonzero(hidden))
        )

    def loss(self, model: PreTrainedModel, batch: MaskedImageBatch) -> Tensor:
        """Sum over the masked squares of the mean absolute error of their pixels, in normalised values."""
        projection, patch = model.decoder[0], model.config.patch_size
        images, channels, size, _ = batch.pixel_values.shape
        across = math.isqrt(batch.hidden.shape[1])  # squares
        side = size // across // patch  # of a square, in patches
        if side * patch * across != size or projection.out_channels != channels * patch**2:
            raise ParamsError(
                f"pretrain.settings.square {size // across} must be a multiple of model.config.patch_size {patch}, "
                f"and model.config.encoder_stride be {patch} as well"
            )
        hidden = batch.hidden.view(images, across, across).repeat_interleave(side, 1).repeat_interleave(side, 2)
        output = model.base_model(pixel_values=batch.pixel_values, bool_masked_pos=hidden.flatten(1))
        states = output.last_hidden_state[:, 1:].view(images, across, side, across, side, -1).transpose(2, 3)
        pixels = batch.pixel_values.view(images, channels, across, side, patch, across, side, patch)
        pixels = pixels.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5)  # the layout of the projection: channel by channel
        states, pixels = (values.flatten(0, 2)[batch.positions] for values in (states, pixels))
        predicted = functional.linear(states, projection.weight[:, :, 0, 0], projection.bias)
        return functional.l1_loss(predicted.float(), pixels, reduction="none").mean(dim=(1, 2, 3)).sum()

    def score(self, model: PreTrainedModel, batch: MaskedImageBatch) -> dict[str, Tensor]:
        """Sums over the masked squares, for validation."""
        return {"loss": self.loss(model, batch)}
