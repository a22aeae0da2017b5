"""A training stage: what is to be trained, and the outputs that it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pretune.models import build
from pretune.training import curve, loop, parallel
from pretune.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from pretune.params import TrainingParams
    from pretune.stage import Stage
    from pretune.training.loop import Objective


@dataclass(frozen=True)
class Job:
    """A model, what it is to learn, how, and for how many steps."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    objective: Objective
    validation: Objective | None
    params: TrainingParams
    steps: int


def carry_out(stage: Stage, job: Job, *, out: str, examples: list[str]) -> None:
    """Train, or go on where a former attempt was stopped; leave the model in `out` and its curve beside."""
    with parallel.joined() as world:
        checkpoints = Checkpoints(stage.checkpoints, world)
        model, state = loop.train(
            job.model,
            job.objective,
            job.params,
            job.steps,
            seed=stage.params.seed,
            report=stage.reporter(job.steps),
            validation=job.validation,
            checkpoints=checkpoints,
            world=world,
            strategy=stage.params.launch.strategy,
        )
        if world.rank:
            return
    curve.write(stage.out(f"reports/curves/{stage.name}.csv"), state)
    build.save(model, job.tokenizer, stage.out(out))
    stage.run.metrics(
        {
            "train_loss": state.records[-1].loss,
            "epochs": state.step * job.params.batch_size / len(job.objective),
            "parameters": model.num_parameters(),
            "skipped_steps": state.skipped,
        }
    )
    stage.model(out, examples)
