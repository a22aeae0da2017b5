"""The predictors of image models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from typing_extensions import override

from .pixels import Pipeline
from .text import calibrated, likeliest

ROWS = 32  # per forward pass
OFFLINE = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
Row = dict[str, Any]


class Images:
    """A model and its input pipeline."""

    auto: ClassVar[str]
    reads: ClassVar[dict[str, str]] = {"image": "binary"}
    gives: ClassVar[dict[str, str]]

    def __init__(self, model: Any, pipeline: Pipeline, inference_config: Row) -> None:
        self.model, self.pipeline, self.inference_config = model, pipeline, inference_config

    @classmethod
    def load(cls, folder: str, inference_config: Row) -> Self:
        """Load the model that `save` wrote to `folder`."""
        model = getattr(transformers, cls.auto).from_pretrained(folder, dtype=torch.float32, **OFFLINE)
        return cls(model.eval(), Pipeline.load(folder), inference_config)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One output row for each row, in the same order."""
        pixels = [self.pipeline.pixels(row["image"]) for row in rows]
        return self.answer(self.outputs(np.stack(pixels))) if pixels else []

    def outputs(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """The outputs of the model, ROWS images at a time: (images, ...) float32 on the CPU."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pixels), ROWS):
                values = torch.from_numpy(self.pipeline.values(pixels[start : start + ROWS]))
                parts.append(self.output(values.to(self.model.device)).float().cpu())
        return torch.cat(parts)

    def output(self, values: Tensor) -> Tensor:
        """The outputs for values (images, channels, size, size) float32: (images, ...)."""
        raise NotImplementedError

    def answer(self, outputs: Tensor) -> list[Row]:
        """One output row for each of the outputs."""
        raise NotImplementedError


class ImageClass(Images):
    """Predicts the class of each image, with its probability."""

    auto = "AutoModelForImageClassification"
    gives: ClassVar[dict[str, str]] = {"label": "string", "score": "double"}

    def encoded(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The model's input: pixel_values (images, channels, size, size) float32."""
        pixels = np.stack([self.pipeline.pixels(row["image"]) for row in rows])
        return {"pixel_values": torch.from_numpy(self.pipeline.values(pixels)).to(self.model.device)}

    def output(self, values: Tensor) -> Tensor:
        """The logit of each class: (images, classes)."""
        logits: Tensor = self.model(pixel_values=values).logits
        return logits

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """The probability of each class: (images, classes)."""
        return torch.softmax(calibrated(self.outputs(pixels), self.inference_config), dim=-1)

    @override
    def answer(self, outputs: Tensor) -> list[Row]:
        return likeliest(
            torch.softmax(calibrated(outputs, self.inference_config), dim=-1), self.inference_config["labels"]
        )


class Embedded(Images):
    """Embeds each image: the mean of its patches' last hidden states."""

    auto = "AutoModelForMaskedImageModeling"
    gives: ClassVar[dict[str, str]] = {"vector": "list(double)"}

    def output(self, values: Tensor) -> Tensor:
        """The embeddings: (images, hidden)."""
        embeddings: Tensor = self.model.base_model(pixel_values=values).last_hidden_state[:, 1:].mean(dim=1)
        return embeddings

    @override
    def answer(self, outputs: Tensor) -> list[Row]:
        return [{"vector": vector} for vector in outputs.tolist()]
