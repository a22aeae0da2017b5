"""How many labels does pretraining save? Models trained on shares of the labelled rows predict the test rows.

Each share is trained for the same number of steps as all rows, with the same settings and initial weights: models
differ in their training rows only. The rows of a smaller share are a subset of those of a larger one.
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
from pretune.config.section import training_seed
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
from pretune.training import mixture
from pretune.training.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pretune.runtime.stage import Stage, StageInputs

Prepare = Callable[["StageInputs"], Job]


def train_on_shares(stage: Stage, models: Mapping[str, Prepare]) -> None:
    """Train each of `models` on each share; write their predictions for the test rows, and a table of the shares.

    A resumed stage does not train the finished models again. DataError if a share is too small to train on.
    """
    folder = stage.dep("data/prepared/labelled")
    seed = training_seed(stage.params.finetune.seed, stage.params.seed)
    data = LabelledData(folder, stage.params.finetune, seed)
    parts = shares(folder, stage.params.label_efficiency.partial, stage.params.seed)
    partial = [share for share in parts if share < 1]
    with training.process_group(stage.key) as world:
        costs = {
            name: training.cost_of(stage, without_validation(prepare(stage)), world) for name, prepare in models.items()
        }
        trainings = [(share, name) for share in partial for name in models]
        for number, (share, name) in enumerate(trainings):
            path = _predictions_path(stage, share, name)
            if world.broadcast(int(path.is_file())):
                continue
            job = without_validation(_with_rows(data, models[name](stage), parts[share]))
            steps, before = len(trainings) * job.steps, number * job.steps
            report = stage.reporter(steps, before=before, name=path.stem)
            model, _ = training.train(stage, job, costs[name], world, folder=path.with_suffix(""), report=report)
            if world.rank == 0:
                _write_predictions(data, job, adapters.merge(model, path.parent), path)
        if world.rank:
            return
    out = stage.out("reports/label_efficiency")
    out.mkdir(parents=True)
    for share in partial:
        predicted = {name: _read_predictions(_predictions_path(stage, share, name)) for name in models}
        (out / f"{share:g}.json").write_text(
            predictions_io.dumps(StoredPredictions(_keys(folder), predicted)), encoding="utf-8"
        )
    table = [{"share": f"{share:g}", "rows": len(rows), "labels": len(_labels(rows))} for share, rows in parts.items()]
    (out / "shares.csv").write_text(as_csv(table), encoding="utf-8")


def shares(folder: Path, partial: list[float], seed: int) -> dict[float, list[Row]]:
    """The training rows of each share in `partial` and of 1. DataError if a share is empty or has one label only."""
    rows = labelled_rows.read(folder / "train.parquet")
    parts = {share: splits.stratified_sample(rows, share, seed) for share in partial} | {1.0: rows}
    fewest = min(2, len(_labels(rows)))
    problems = [
        f"label_efficiency.shares: {share:g} of {len(rows)} training rows are {len(part)}, "
        f"with {len(_labels(part))} of {len(_labels(rows))} labels: nothing to learn"
        for share, part in parts.items()
        if not part or len(_labels(part)) < fewest
    ]
    if problems:
        raise DataError(problems, "raise the share or prepare.train_rows in params.yaml, then run again")
    return parts


def without_validation(job: Job) -> Job:
    """The same job without validation, unless it selects the weights: nobody looks at so many curves."""
    return job if job.params.metric_for_best_model != "last" else replace(job, validation=None, validation_parts={})


def _with_rows(data: LabelledData, job: Job, rows: list[Row]) -> Job:
    """The same job on these rows only: the same number of steps and unfreeze schedule."""
    objective = cast("type[FinetuningObjective]", type(job.objective))
    context = data.context(objective, job.inputs)
    samples = objective(rows, context)
    return replace(job, objective=samples, mixture=mixture.of(rows, data.weights(), samples, context))


def _predictions_path(stage: Stage, share: float, name: str) -> Path:
    """Where the predictions of a finished model are kept until the stage ends."""
    return stage.checkpoints / f"{name} on {share:g}.json"


def _write_predictions(data: LabelledData, job: Job, model: PreTrainedModel, path: Path) -> None:
    """Write the trained model's predictions for the test rows, as `evaluate` would; drop model and checkpoints."""
    folder, partial = path.parent / "model", path.with_suffix(".partial")
    shutil.rmtree(folder, ignore_errors=True)
    build.save(model, job.inputs, folder, job.inference_config_of(model))
    predicted = data.predictions(folder, "test")
    partial.write_text(
        predictions_io.dumps(StoredPredictions(_keys(data.folder), {path.stem: predicted})), encoding="utf-8"
    )
    os.replace(partial, path)
    checkpoints = path.with_suffix("")
    shutil.rmtree(folder)
    shutil.rmtree(checkpoints)


def _read_predictions(path: Path) -> Predictions:
    return predictions_io.loads(path.read_text(encoding="utf-8")).models[path.stem]


def _keys(folder: Path) -> list[str]:
    return [labelled_rows.input_key(row) for row in labelled_rows.iterate(folder / "test.parquet")]


def _labels(rows: list[Row]) -> set[str]:
    return {label for row in rows for label in splits.labels_of(row)}
