"""What the objectives on images share: the input pipeline, and what of a model's configuration follows from it."""

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
    """A kind whose models read images."""

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
    """The rows' images as the model takes them: (rows, channels, size, size). DataError where one is none."""
    found = np.empty((len(rows), len(pipeline.mean), pipeline.size, pipeline.size), dtype=np.uint8)
    for number, row in enumerate(rows):
        try:
            found[number] = pipeline.pixels(row["image"])
        except OSError as error:
            where = row.get("origin", f"row {number}")
            raise DataError(
                f"{where}: the image cannot be read: {error}", "remove the row, then: pretune run"
            ) from None
    return found
