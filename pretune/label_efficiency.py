"""How many labels does pretraining save? Models trained on shares of the labelled rows, asked about the test rows.

A share is trained on for as many steps as all rows are, with the same settings, from the same first weights:
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
from pretune.data import rows as labelled_rows
from pretune.data import splits
from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.evaluation import inputs, stored
from pretune.evaluation.stored import Stored
from pretune.models import build
from pretune.objectives import labelled
from pretune.objectives.base import Finetuning
from pretune.objectives.predictions import Predictions
from pretune.training import job as training
from pretune.training.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pretune.stage import Stage

Prepare = Callable[["Stage"], Job]


def carry_out(stage: Stage, models: Mapping[str, Prepare]) -> None:
    """Train each of `models` on each share; leave what they say of the test rows, and a table of the shares.

    What has been trained is not trained again after a stop. Raises DataError where a share holds nothing to learn.
    """
    parts = shares(stage)
    fewer = [share for share in parts if share < 1]
    with training.begun(stage) as world:
        costs = {name: training.cost_of(stage, lean(prepare(stage)), world) for name, prepare in models.items()}
        trainings = [(share, name) for share in fewer for name in models]
        for number, (share, name) in enumerate(trainings):
            kept = _kept(stage, share, name)
            if world.first_says(int(kept.is_file())):
                continue
            job = lean(_on(stage, models[name](stage), parts[share]))
            steps, before = len(trainings) * job.steps, number * job.steps
            report = stage.reporter(steps, before=before, name=kept.stem)
            model, _ = training.train(stage, job, costs[name], world, folder=kept.with_suffix(""), report=report)
            if world.rank == 0:
                _keep(stage, job, adapters.merge(model), kept)
        if world.rank:
            return
    folder = stage.out("reports/label_efficiency")
    folder.mkdir(parents=True)
    for share in fewer:
        said = {name: _said(_kept(stage, share, name)) for name in models}
        (folder / f"{share:g}.json").write_text(stored.dumps(Stored(_keys(stage), said)), encoding="utf-8")
    table = [{"share": f"{share:g}", "rows": len(rows), "labels": len(_labels(rows))} for share, rows in parts.items()]
    (folder / "shares.csv").write_text(stored.as_csv(table), encoding="utf-8")


def shares(stage: Stage) -> dict[float, list[Row]]:
    """The training rows of each share, the smallest first, and of 1."""
    params, seed = stage.params.label_efficiency, stage.params.seed
    rows = labelled_rows.read(stage.dep("data/prepared/labelled") / "train.parquet")
    parts = {share: splits.part(rows, share, seed) for share in params.partial} | {1.0: rows}
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


def lean(job: Job) -> Job:
    """Without validation, unless that chooses the weights: nobody looks at so many curves."""
    return job if job.params.select != "last" else replace(job, validation=None)


def _on(stage: Stage, job: Job, rows: list[Row]) -> Job:
    """The same job on these rows alone: for as many steps, with the parameters opening as they do on all rows."""
    kind = cast("type[Finetuning]", type(job.objective))
    return replace(job, objective=kind(rows, labelled.given(stage, kind, job.inputs)))


def _kept(stage: Stage, share: float, name: str) -> Path:
    """What a model has said, until the stage ends."""
    return stage.checkpoints / f"{name} on {share:g}.json"


def _keep(stage: Stage, job: Job, model: PreTrainedModel, kept: Path) -> None:
    """Write what the trained model says of the test rows, asked as `evaluate` asks; the model itself is not kept."""
    folder, partial = stage.checkpoints / "model", kept.with_suffix(".partial")
    shutil.rmtree(folder, ignore_errors=True)
    build.save(model, job.inputs, folder, training.facts_of(job, model))
    said = labelled.predictions(stage, folder, "test")
    partial.write_text(stored.dumps(Stored(_keys(stage), {kept.stem: said})), encoding="utf-8")
    os.replace(partial, kept)
    for done in (folder, kept.with_suffix("")):  # the second: its checkpoints
        shutil.rmtree(done)


def _said(kept: Path) -> Predictions:
    return stored.loads(kept.read_text(encoding="utf-8")).models[kept.stem]


def _keys(stage: Stage) -> list[str]:
    return [inputs.key(row) for row in labelled_rows.iterate(stage.dep("data/prepared/labelled") / "test.parquet")]


def _labels(rows: list[Row]) -> set[str]:
    return {label for row in rows for label in splits.labels_of(row)}
