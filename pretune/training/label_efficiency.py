"""How many labels does pretraining save? Models trained on shares of the labelled rows, evaluated on the test rows.

Each share is trained on for as many steps as all rows are, with the same settings, from the same first weights:
models of two shares differ in their rows only. A smaller share's rows are among those of a larger one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pretune.adaptation import adapters
from pretune.config.files import as_csv
from pretune.data import rows as labelled_rows
from pretune.data.prepare import splits
from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.models import build
from pretune.objectives import predictions_io
from pretune.objectives.base import FinetuningObjective
from pretune.objectives.finetuning.labelled import LabelledData
from pretune.objectives.predictions import Predictions
from pretune.objectives.predictions_io import StoredPredictions
from pretune.training import job as training
from pretune.training.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pretune.runtime.stage import Stage, StageInputs

Prepare = Callable[["StageInputs"], Job]


def train_on_shares(stage: Stage, models: Mapping[str, Prepare]) -> None:
    """Train each of `models` on each share; leave their predictions for the test rows, and a table of the shares.

    A model that was trained before a stop is not trained again. DataError where a share is too small to learn from.
    """
    folder = stage.dep("data/prepared/labelled")
    data = LabelledData(folder, stage.params.finetune, stage.params.seed)
    parts = shares(folder, stage.params.label_efficiency.partial, stage.params.seed)
    partial = [share for share in parts if share < 1]
    with training.agreed(stage.key) as world:
        costs = {
            name: training.cost_of(stage, without_validation(prepare(stage)), world) for name, prepare in models.items()
        }
        trainings = [(share, name) for share in partial for name in models]
        for number, (share, name) in enumerate(trainings):
            kept = _kept(stage, share, name)
            if world.broadcast(int(kept.is_file())):
                continue
            job = without_validation(_on(data, models[name](stage), parts[share]))
            steps, before = len(trainings) * job.steps, number * job.steps
            report = stage.reporter(steps, before=before, name=kept.stem)
            model, _ = training.train(stage, job, costs[name], world, folder=kept.with_suffix(""), report=report)
            if world.rank == 0:
                _keep(data, job, adapters.merge(model), kept)
        if world.rank:
            return
    out = stage.out("reports/label_efficiency")
    out.mkdir(parents=True)
    for share in partial:
        predicted = {name: _predictions(_kept(stage, share, name)) for name in models}
        (out / f"{share:g}.json").write_text(
            predictions_io.dumps(StoredPredictions(_keys(folder), predicted)), encoding="utf-8"
        )
    table = [{"share": f"{share:g}", "rows": len(rows), "labels": len(_labels(rows))} for share, rows in parts.items()]
    (out / "shares.csv").write_text(as_csv(table), encoding="utf-8")


def shares(folder: Path, partial: list[float], seed: int) -> dict[float, list[Row]]:
    """The training rows of each share, the smallest first, and of 1."""
    rows = labelled_rows.read(folder / "train.parquet")
    parts = {share: splits.part(rows, share, seed) for share in partial} | {1.0: rows}
    least = min(2, len(_labels(rows)))
    problems = [
        f"label_efficiency.shares: {share:g} of {len(rows)} training rows are {len(part)}, "
        f"with {len(_labels(part))} of {len(_labels(rows))} labels: nothing to learn"
        for share, part in parts.items()
        if not part or len(_labels(part)) < least
    ]
    if problems:
        raise DataError(problems, "raise the share or prepare.train_rows in params.yaml, then run again")
    return parts


def without_validation(job: Job) -> Job:
    """The same job without validation, unless that chooses the weights: nobody looks at so many curves."""
    return job if job.params.metric_for_best_model != "last" else replace(job, validation=None)


def _on(data: LabelledData, job: Job, rows: list[Row]) -> Job:
    """The same job on these rows alone: as many steps, with the same schedule of unfreezing."""
    objective = cast("type[FinetuningObjective]", type(job.objective))
    return replace(job, objective=objective(rows, data.context(objective, job.inputs)))


def _kept(stage: Stage, share: float, name: str) -> Path:
    """The predictions of a model, until the stage ends."""
    return stage.checkpoints / f"{name} on {share:g}.json"


def _keep(data: LabelledData, job: Job, model: PreTrainedModel, kept: Path) -> None:
    """Write the trained model's predictions for the test rows, as `evaluate` would; the model itself is not kept."""
    folder, partial = kept.parent / "model", kept.with_suffix(".partial")
    shutil.rmtree(folder, ignore_errors=True)
    build.save(model, job.inputs, folder, job.inference_config_of(model))
    predicted = data.predictions(folder, "test")
    partial.write_text(
        predictions_io.dumps(StoredPredictions(_keys(data.folder), {kept.stem: predicted})), encoding="utf-8"
    )
    os.replace(partial, kept)
    for done in (folder, kept.with_suffix("")):  # the second: its checkpoints
        shutil.rmtree(done)


def _predictions(kept: Path) -> Predictions:
    return predictions_io.loads(kept.read_text(encoding="utf-8")).models[kept.stem]


def _keys(folder: Path) -> list[str]:
    return [labelled_rows.input_key(row) for row in labelled_rows.iterate(folder / "test.parquet")]


def _labels(rows: list[Row]) -> set[str]:
    return {label for row in rows for label in splits.labels_of(row)}
