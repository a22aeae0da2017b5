"""MLflow's entry point: load a model that a stage has written, and predict with it.

In a model's folder this is the package `predictor`, which imports its own modules only.
Stages evaluate with the same classes, so both predict the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import answers, chat, embedding, generation, images, linear, text, words

if TYPE_CHECKING:
    import pandas as pd

ANSWERS: dict[str, Any] = {
    "class": text.Class,
    "binary": text.Binary,
    "labels": text.Labels,
    "number": text.Number,
    "tags": words.Tags,
    "filled": text.Filled,
    "continued": text.Continued,
    "reply": chat.Reply,
    "reward": chat.Reward,
    "answered": answers.Answered,
    "written": generation.Written,
    "image_class": images.ImageClass,
    "vector": embedding.Vector,
    "embedded": images.Embedded,
    "mapped": linear.Mapped,
}


class Predictor:
    """A model with its input pipeline, as MLflow's pyfunc calls it."""

    def __init__(self, folder: str) -> None:
        inference_config = json.loads((Path(folder) / "pretune.json").read_text(encoding="utf-8"))
        self.answers = ANSWERS[inference_config["answers"]].load(folder, inference_config)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002 - MLflow passes it
        """One output row for each row; `data` has the columns `reads`, the result the columns `gives`."""
        import pandas as pd  # MLflow has it; stages call the classes above

        rows = pd.DataFrame(data).to_dict("records")
        rows = [{str(name): value for name, value in row.items() if not _is_missing(value)} for row in rows]
        return pd.DataFrame(self.answers(rows), columns=list(self.answers.gives))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _load_pyfunc(path: str) -> Predictor:
    """Called by MLflow, which imports this module as `loader_module`."""
    return Predictor(path)
