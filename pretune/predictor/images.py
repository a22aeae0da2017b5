"""Images: how a model reads them, with Pillow and without torchvision; and how models of images answer."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from torch import Tensor

ROWS = 32  # per forward pass
FILE = "preprocessor_config.json"
MODES = {1: "L", 3: "RGB"}
OFFLINE = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
Row = dict[str, Any]


class Pipeline:
    """An image processor in transformers' format: resize to `size`, then take `mean` off and divide by `deviation`.

    mean, deviation: of each channel, of values from 0 to 1.
    """

    def __init__(self, size: int, mean: Sequence[float], deviation: Sequence[float]) -> None:
        self.size, self.mean, self.deviation = size, list(mean), list(deviation)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """What `save_pretrained` left in `folder`."""
        facts = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
        return cls(facts["size"]["height"], facts["image_mean"], facts["image_std"])

    def save_pretrained(self, folder: Path | str) -> None:
        """Write preprocessor_config.json."""
        facts = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "resample": int(Image.Resampling.BILINEAR),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean,
            "image_std": self.deviation,
        }
        (Path(folder) / FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def pixels(self, file: bytes) -> npt.NDArray[np.uint8]:
        """The content of an image file: (channels, size, size). OSError where it is none."""
        with Image.open(io.BytesIO(file)) as image:
            found = image.convert(MODES[len(self.mean)])
        if found.size != (self.size, self.size):
            found = found.resize((self.size, self.size), Image.Resampling.BILINEAR)
        array = np.asarray(found)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    def values(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """What the model reads: (images, channels, size, size)."""
        mean, deviation = (np.array(each, np.float32)[:, None, None] for each in (self.mean, self.deviation))
        return np.asarray((pixels.astype(np.float32) / 255 - mean) / deviation, dtype=np.float32)


class Images:
    """A model and its input pipeline."""

    auto: ClassVar[str]
    reads: ClassVar[dict[str, str]] = {"image": "binary"}
    gives: ClassVar[dict[str, str]]

    def __init__(self, model: Any, pipeline: Pipeline, facts: Row) -> None:
        self.model, self.pipeline, self.facts = model, pipeline, facts

    @classmethod
    def load(cls, folder: str, facts: Row) -> Self:
        """What `save` left in `folder`."""
        model = getattr(transformers, cls.auto).from_pretrained(folder, **OFFLINE)
        return cls(model.eval(), Pipeline.load(folder), facts)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """One answer for each row, in their order."""
        pixels = [self.pipeline.pixels(row["image"]) for row in rows]
        return self.answer(self.outputs(np.stack(pixels))) if pixels else []

    def outputs(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """What the model says, a few images at a time: (images, ...) float32 on the CPU."""
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pixels), ROWS):
                values = torch.from_numpy(self.pipeline.values(pixels[start : start + ROWS]))
                parts.append(self.output(values.to(self.model.device)).float().cpu())
        return torch.cat(parts)

    def output(self, values: Tensor) -> Tensor:
        """What the model says about (images, channels, size, size)."""
        raise NotImplementedError

    def answer(self, outputs: Tensor) -> list[Row]:
        """One row for each of the outputs."""
        raise NotImplementedError


class ImageClass(Images):
    """The likeliest class of each image, with its probability."""

    auto = "AutoModelForImageClassification"
    gives: ClassVar[dict[str, str]] = {"label": "string", "score": "double"}

    def output(self, values: Tensor) -> Tensor:
        """The probability of each class: (images, classes)."""
        return torch.softmax(self.model(pixel_values=values).logits.float(), dim=-1)

    def answer(self, outputs: Tensor) -> list[Row]:
        """See Images."""
        scores, best = outputs.max(dim=-1)
        labels = self.facts["labels"]
        return [
            {"label": labels[index], "score": score}
            for index, score in zip(best.tolist(), scores.tolist(), strict=True)
        ]


class Embedded(Images):
    """Each image as a vector: the mean of its patches' last states."""

    auto = "AutoModelForMaskedImageModeling"
    gives: ClassVar[dict[str, str]] = {"vector": "list(double)"}

    def output(self, values: Tensor) -> Tensor:
        """(images, hidden)."""
        found: Tensor = self.model.base_model(pixel_values=values).last_hidden_state[:, 1:].mean(dim=1)
        return found

    def answer(self, outputs: Tensor) -> list[Row]:
        """See Images."""
        return [{"vector": vector} for vector in outputs.tolist()]
