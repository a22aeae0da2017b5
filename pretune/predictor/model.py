"""What MLflow calls to load a model that a stage made and to predict with it.

In a model's folder it is the package `predictor` and imports only what lies beside it.
Training evaluates with the same classes, so both give the same answers.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import answers, chat, generation, images, linear, text, words

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
    "answered": answers.Answered,
    "written": generation.Written,
    "image_class": images.ImageClass,
    "embedded": images.Embedded,
    "mapped": linear.Mapped,
}


class Predictor:
    """A model with its input pipeline; `predict` answers with one row for each row."""

    def __init__(self, folder: str) -> None:
        inference_config = json.loads((Path(folder) / "pretune.json").read_text(encoding="utf-8"))
        self.answers = ANSWERS[inference_config["answers"]].load(folder, inference_config)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002 - MLflow passes it
        """A table with the columns of the class that answers; `data` is a table with those that it reads."""
        import pandas as pd  # for MLflow only: training asks the classes above

        rows = pd.DataFrame(data).to_dict("records")
        known = [{str(name): value for name, value in row.items() if not _is_missing(value)} for row in rows]
        return pd.DataFrame(self.answers(known), columns=list(self.answers.gives))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _load_pyfunc(path: str) -> Predictor:
    """The entry point that MLflow's `loader_module` asks for."""
    return Predictor(path)
