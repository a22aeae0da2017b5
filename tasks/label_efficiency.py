"""label_efficiency: the models of `finetune` and `scratch` once more, on shares of the labelled rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretune.stage import Stage
    from pretune.training.job import Job


def label_efficiency(stage: Stage) -> None:
    """Train both models on each share; leave in `reports/label_efficiency` what they say of the test rows."""
    if not stage.params.label_efficiency.partial:  # as a rule: torch is not even loaded
        folder = stage.out("reports/label_efficiency")
        folder.mkdir(parents=True)
        (folder / "shares.csv").write_text("", encoding="utf-8")
        return
    from pretune.label_efficiency import carry_out
    from tasks import finetune, scratch

    carry_out(stage, {"finetuned": finetune.prepare, "scratch": scratch.prepare})


def prepare(stage: Stage) -> Job:
    """All trainings as if they were one: what they cost together."""
    from pretune.label_efficiency import lean
    from tasks import finetune

    job = lean(finetune.prepare(stage))
    return replace(job, steps=2 * len(stage.params.label_efficiency.partial) * job.steps)
