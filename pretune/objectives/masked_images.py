"""Masked image modelling (Xie et al. 2022, SimMIM): foresee the pixels of the patches that were hidden.

The same number of patches is hidden in every image, and only theirs are computed from the states.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from pretune.data.chance import uniform

WHERE = 1  # what a number is drawn for


@dataclass(frozen=True)
class MaskedImages:
    """pixel_values: (images, channels, size, size). hidden: (images, patches) bool.

    positions: (hidden patches,) int64 into the patches of all images. patches: (hidden patches,
    channels * patch size * patch size), their pixels.
    """

    pixel_values: Tensor
    hidden: Tensor
    positions: Tensor
    patches: Tensor

    @property
    def count(self) -> int:
        """Patches that the loss is summed over."""
        return len(self.positions)

    @property
    def tokens(self) -> int:
        """Patches that are read."""
        return self.hidden.numel()

    def to(self, device: torch.device) -> MaskedImages:
        """The same on another device."""
        names = ("pixel_values", "hidden", "positions", "patches")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})


def patches_of(pixels: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """(images, channels, height, width) to (images, patches, channels * size * size)."""
    images, channels, height, width = pixels.shape
    cut = pixels.reshape(images, channels, height // size, size, width // size, size)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(images, -1, channels * size * size)


def loss(model: PreTrainedModel, batch: MaskedImages) -> Tensor:
    """Sum over the hidden patches of the mean absolute error of their pixels."""
    states = model.base_model(pixel_values=batch.pixel_values, bool_masked_pos=batch.hidden).last_hidden_state[:, 1:]
    projection = model.decoder[0]  # a convolution of one pixel: a matrix
    assert isinstance(projection, nn.Conv2d)
    found = functional.linear(states.flatten(0, 1)[batch.positions], projection.weight[:, :, 0, 0], projection.bias)
    return functional.l1_loss(found.float(), batch.patches, reduction="none").mean(dim=-1).sum()


def hide(
    key: tuple[int, ...], epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64], patches: int, rate: float
) -> npt.NDArray[np.bool_]:
    """Which patches to hide, `rate` of each image's: (samples, patches)."""
    order = np.argsort(uniform((*key, WHERE), epochs, samples, patches), axis=1)
    hidden = np.zeros((len(samples), patches), dtype=bool)
    np.put_along_axis(hidden, order[:, : max(1, round(rate * patches))], values=True, axis=1)
    return hidden
