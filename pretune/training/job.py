"""A training stage: what is to be trained, and the outputs that it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from pretune.adaptation import adapters
from pretune.errors import DataError
from pretune.models import build
from pretune.training import curve, fit, loop, parallel, vitals
from pretune.training.checkpoint import Checkpoints
from pretune.training.cost import Cost, estimate, peak_flops

if TYPE_CHECKING:
    from pretune.objectives.base import Finetuning
    from pretune.params import TrainingParams
    from pretune.stage import Stage
    from pretune.training.loop import Objective, Record, State, Validation
    from pretune.training.parallel import World


@dataclass(frozen=True)
class Job:
    """A model, what it is to learn, how, and for how many steps."""

    model: PreTrainedModel
    inputs: Any  # its input pipeline: a tokenizer, where it reads text
    objective: Objective
    validation: Objective | None
    params: TrainingParams
    steps: int
    facts: dict[str, Any]  # what it has to know to answer: objectives/base.py
    example: dict[str, Any]  # a row that it can be asked
    opens: dict[str, int] = field(default_factory=dict)  # the step from which a parameter learns: adaptation/methods.py
    fitted: Finetuning | None = None  # rows that its confidence is fitted to when it is trained

    def cost(self, stage: str, seed: int, device: torch.device, *, processes: int = 1, strategy: str = "ddp") -> Cost:
        """What a step costs; DoesNotFitError, with settings that would, where there is not the memory to take any."""

        def price(model: PreTrainedModel, params: TrainingParams) -> Cost:
            return estimate(
                model, self.objective, params, seed=seed, device=device, processes=processes, strategy=strategy
            )

        if not self.steps:
            return price(self.model, self.params)
        return fit.checked(price, self.model, self.params, device=device, processes=processes, stage=stage)


@contextmanager
def begun(stage: Stage) -> Iterator[World]:
    """The processes that train, which agree on their inputs; meanwhile the machine is watched."""
    with vitals.sampled(stage.run.metrics), parallel.joined() as world:
        if world.size > 1 and not world.agree(int(stage.key[:15], 16)):
            raise DataError("the machines differ in params.yaml, code or data", "bring them to the same state")
        yield world


def cost_of(stage: Stage, job: Job, world: World) -> Cost:
    """See Job.cost; to be asked before anything is trained, for the heap keeps what training has used."""
    strategy = stage.params.launch.strategy
    return job.cost(stage.name, stage.params.seed, world.device, processes=world.size, strategy=strategy)


def train(
    stage: Stage, job: Job, cost: Cost, world: World, *, folder: Path, report: Callable[[Record | Validation], None]
) -> tuple[PreTrainedModel, State]:
    """Train, or go on from the checkpoints in `folder`; see loop.train."""
    reach = world.size * peak_flops(world.device, job.params.precision)
    with closing(Checkpoints(folder, world)) as checkpoints:
        return loop.train(
            job.model,
            job.objective,
            job.params,
            job.steps,
            seed=stage.params.seed,
            report=report,
            validation=job.validation,
            checkpoints=checkpoints,
            world=world,
            strategy=stage.params.launch.strategy,
            opens=job.opens,
            effort=cost.flops / cost.tokens / reach,
        )


def facts_of(job: Job, model: PreTrainedModel) -> dict[str, Any]:
    """What the trained `model` has to know to answer, its temperature among it where it is calibrated."""
    return job.facts | ({"temperature": job.fitted.temperature(model)} if job.fitted else {})


def carry_out(stage: Stage, job: Job, *, out: str) -> None:
    """Train, or go on where a former attempt was stopped; leave the model in `out` and its curve beside."""
    trained = sum(each.numel() for each in job.model.parameters() if each.requires_grad)
    began = time.monotonic()
    with begun(stage) as world:
        cost = cost_of(stage, job, world)
        model, state = train(stage, job, cost, world, folder=stage.checkpoints, report=stage.reporter(job.steps))
        if world.rank:
            return
    hours = (time.monotonic() - began) / 3600
    curve.write(stage.out(f"reports/curves/{stage.name}.csv"), state, cost.flops)
    own, merged = adapters.weights(model), adapters.merge(model)
    facts = facts_of(job, merged)
    build.save(merged, job.inputs, stage.out(out), facts)
    adapters.save(own, stage.out(out) / "adapter")
    stage.run.metrics(
        {
            **({"train_loss": state.records[-1].loss} if state.records else {}),
            "epochs": state.step * job.params.batch_size / len(job.objective),
            "parameters": model.num_parameters(),
            "flops": cost.flops * state.step,
            "device_hours": hours * world.size,
            "trained_parameters": trained,
            "trained_share": trained / model.num_parameters(),
            "skipped_steps": state.skipped,
            **({"temperature": facts["temperature"]} if job.fitted else {}),
        }
    )
    stage.model(out, [job.example])
