"""align: train the finetuned model further, as a rule on preferences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretune.errors import ParamsError
from pretune.training.job import Job, run_training
from tasks import finetune

if TYPE_CHECKING:
    from pretune.runtime.stage import Stage, StageInputs


def align(stage: Stage) -> None:
    """Train `models/finetuned` by the settings of `align` and the method of `adaptation`; write `models/aligned`."""
    run_training(stage, prepare(stage), out="models/aligned")


def prepare(stage: StageInputs) -> Job:
    """The training job: model, data and number of steps."""
    params = stage.params.align
    if params is None:
        raise ParamsError("align: missing; dvc.yaml has the stage align", "add the section (docs/params.md)")
    return finetune.job(stage, params, "align", stage.dep("models/finetuned"))
