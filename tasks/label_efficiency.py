"""label_efficiency: train the models of `finetune` and `scratch` on shares of the labelled rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage, StageInputs
    from pretune.training.job import Job


def label_efficiency(stage: Stage) -> None:
    """Train the models on each share; write their predictions for the test rows to `reports/label_efficiency`."""
    if not stage.params.label_efficiency.partial:  # the default; torch is not even imported
        folder = stage.out("reports/label_efficiency")
        folder.mkdir(parents=True)
        (folder / "shares.csv").write_text("", encoding="utf-8")
        return
    from pretune.training.label_efficiency import train_on_shares
    from tasks import finetune, scratch

    models = {"finetuned": finetune.prepare, "scratch": scratch.prepare}
    if not stage.params.scratch.trains(stage.params.model):
        models.pop("scratch")
    train_on_shares(stage, models)


def prepare(stage: StageInputs) -> Job:
    """All trainings as one job, to estimate what they cost together."""
    from pretune.training.label_efficiency import without_validation
    from tasks import finetune

    job = without_validation(finetune.prepare(stage))
    models = 1 + stage.params.scratch.trains(stage.params.model)
    return replace(job, steps=models * len(stage.params.label_efficiency.partial) * job.steps)
