"""Shared by the objectives on images: the input pipeline and the configuration keys that follow from it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from typing_extensions import override

from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.objectives.base import BaseObjective, ObjectiveContext
from pretune.predictor.pixels import Pipeline


class ImageObjective(BaseObjective):
    """An objective for models that read images."""

    @classmethod
    @override
    def inputs(cls, folder: Path) -> Pipeline:
        return Pipeline.load(folder)

    @classmethod
    @override
    def shape(cls, inputs: Pipeline) -> dict[str, Any]:
        return {"image_size": inputs.size, "num_channels": len(inputs.mean)}

    @classmethod
    def example(cls, context: ObjectiveContext) -> Row:
        """A black image."""
        file = io.BytesIO()
        Image.new("L", (context.inputs.size, context.inputs.size)).save(file, "PNG")
        return {"image": file.getvalue()}


def decode(rows: Sequence[Row], pipeline: Pipeline) -> npt.NDArray[np.uint8]:
    """The pixels of the rows' images: (rows, channels, size, size). DataError for a file that is not an image."""
    pixels = np.empty((len(rows), len(pipeline.mean), pipeline.size, pipeline.size), dtype=np.uint8)
    for index, row in enumerate(rows):
        try:
            pixels[index] = pipeline.pixels(row["image"])
        except OSError as error:
            origin = row.get("origin", f"row {index}")
            raise DataError(
                f"{origin}: the image cannot be read: {error}", "remove the row, then: pretune run"
            ) from None
    return pixels
