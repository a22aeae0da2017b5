"""The labelled rows in data/prepared/labelled, for the objective that `finetune.objective` names."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretune.data.rows import Row, read
from pretune.errors import DataError, GraphError
from pretune.models import build
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.finetuning import reference
from pretune.objectives.finetuning.table import OBJECTIVES
from pretune.objectives.finetuning.teacher import Teacher
from pretune.objectives.predictions import Predictions
from pretune.objectives.registry import choose

if TYPE_CHECKING:
    from pretune.config.params import FinetuneParams


@dataclass(frozen=True)
class LabelledData:
    """folder: data/prepared/labelled; params: the section `finetune` or `align`, called `section`.

    reference, teacher: data/reference and data/teacher, if the stage reads them.
    """

    folder: Path
    params: FinetuneParams
    seed: int
    section: str = "finetune"
    reference: Path | None = None
    teacher: Path | None = None

    def objective(self, model_type: str) -> type[FinetuningObjective]:
        """The class of `objective`; ParamsError if models of this type cannot be trained on it."""
        return choose(OBJECTIVES, self.section, self.params, model_type)[0]

    def context(self, objective: type[FinetuningObjective], inputs: Any) -> ObjectiveContext:
        """What the objective needs besides its rows; inputs: the model's input pipeline."""
        labels = json.loads((self.folder / "labels.json").read_text(encoding="utf-8"))
        settings = objective.Settings.model_validate(self.params.settings)
        length, smoothing = self.params.sequence_length, self.params.label_smoothing
        teacher = Teacher.load(self.teacher) if objective.taught and self.teacher else None
        return ObjectiveContext(inputs, length, self.seed, settings, labels, smoothing, teacher=teacher)

    def rows(self, objective: type[FinetuningObjective], split: str) -> list[Row]:
        """The rows of train, validation or test; DataError if they lack columns that the objective needs."""
        rows = read(self.folder / f"{split}.parquet")
        missing = [name for name in objective.columns if any(name not in row for row in rows)]
        if missing:
            raise DataError(
                f"the objective {self.params.objective} needs the columns {', '.join(objective.columns)}; "
                f"rows of {split} lack {', '.join(missing)}",
                f"name another {self.section}.objective in params.yaml, or other data",
            )
        return rows

    def weights(self) -> dict[str, float]:
        """{part: weight} of a mixture; {} for any other source."""
        file = self.folder / "weights.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}

    def training_rows(self, objective: type[FinetuningObjective], split: str) -> list[Row]:
        """The rows of train or validation, with their values of `reference` if the objective needs them."""
        rows = self.rows(objective, split)
        if not objective.referenced:
            return rows
        if self.reference is None:
            raise GraphError(
                f"{self.section}.objective {self.params.objective} compares the model with the one that training "
                f"starts from, but in dvc.yaml no stage computes data/reference for it",
                "take the stage `reference` from examples/graphs (docs/stages.md)",
            )
        return reference.attach(rows, self.reference / f"{split}.safetensors")

    def told(self, objective: type[FinetuningObjective], inputs: Any) -> tuple[list[str], dict[str, dict[str, int]]]:
        """Warnings about the rows that are trained on, and their figures: {what: {split: count}}, without a model.

        inputs: the model's input pipeline. An error of the objective is among the warnings. Objectives that have
        nothing to tell do not read the rows.
        """
        warnings, figures = list[str](), dict[str, dict[str, int]]()
        if objective.told is FinetuningObjective.told:
            return warnings, figures
        context = self.context(objective, inputs)
        for split in ("train", "validation"):
            try:
                lines, found = objective(self.rows(objective, split), context).told()
            except DataError as error:
                lines, found = error.problems, {}
            warnings += [f"{split}: {line}" for line in lines]
            for name, count in found.items():
                figures.setdefault(name.removeprefix("conversations_").replace("_", " "), {})[split] = int(count)
        return warnings, figures

    def predictions(self, model: Path | str, split: str, *, like: Path | None = None) -> Predictions:
        """The predictions of `model` for the rows of train, validation or test.

        model: the folder of a trained model; or any checkpoint, which is asked as the trained model in the folder
        `like` is: with its tokenizer, chat template and settings.
        """
        trained = like or Path(model)
        objective = self.objective(build.model_type(trained))
        context = self.context(objective, objective.inputs(trained))
        config = build.inference_config(trained)
        fitted = {name: config[name] for name in ("temperature", "null_threshold") if name in config}
        context = replace(context, **fitted)
        loaded, _ = build.load(objective, model)
        return objective(self.rows(objective, split), context).predict(loaded.eval())
