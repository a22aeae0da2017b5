"""Training as a stage: a job, and the outputs that the stage writes."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel

from pretune.adaptation import adapters
from pretune.errors import DataError
from pretune.models import build
from pretune.training import loop, mixture, parallel
from pretune.training.checkpoint import Checkpoints
from pretune.training.estimate import memory_check
from pretune.training.estimate.cost import Cost, estimate, peak_flops

if TYPE_CHECKING:
    from pretune.adaptation.methods import Adaptation
    from pretune.config.params import FinetuneParams, TrainingParams
    from pretune.data.rows import Row
    from pretune.objectives.base import BaseObjective, FinetuningObjective, ObjectiveContext
    from pretune.objectives.finetuning.labelled import LabelledData
    from pretune.objectives.protocol import Objective
    from pretune.runtime.events import Record, Validation
    from pretune.runtime.stage import Stage
    from pretune.training.mixture import Mixture
    from pretune.training.parallel import World
    from pretune.training.state import State


@dataclass(frozen=True)
class Job:
    """A model, its objective and settings, and the number of steps.

    inputs: the model's input pipeline, a tokenizer for text. inference_config: the content of pretune.json
    (objectives/base.py). example: an input row for the trained model. unfreeze_schedule: the first step in which a
    parameter is trained, if not step 0. calibration: the rows on which the temperature is fitted.
    held_out: the validation rows, for FinetuningObjective.fitted. mixture: of the samples of `objective`;
    validation_parts: the validation samples of each of its parts.
    """

    model: PreTrainedModel
    inputs: Any
    objective: Objective
    validation: Objective | None
    params: TrainingParams
    steps: int
    inference_config: dict[str, Any]
    example: dict[str, Any]
    seed: int
    unfreeze_schedule: dict[str, int] = field(default_factory=dict)
    calibration: FinetuningObjective | None = None
    held_out: Callable[[], Sequence[Row]] | None = None
    mixture: Mixture | None = None
    validation_parts: dict[str, Objective] = field(default_factory=dict)

    def cost(self, stage: str, device: torch.device, *, processes: int = 1, strategy: str = "ddp") -> Cost:
        """The cost of a step; DoesNotFitError if it needs more memory than there is, with settings that would fit."""

        def price(model: PreTrainedModel, params: TrainingParams) -> Cost:
            return estimate(
                model, self.objective, params, seed=self.seed, device=device, processes=processes, strategy=strategy
            )

        if not self.steps:
            return price(self.model, self.params)
        return memory_check.check(price, self.model, self.params, device=device, processes=processes, stage=stage)

    def inference_config_of(self, model: PreTrainedModel) -> dict[str, Any]:
        """`inference_config` of the trained `model`, with what is fitted to validation rows."""
        temperature = {"temperature": self.calibration.temperature(model)} if self.calibration else {}
        objective = cast("FinetuningObjective", self.objective)
        fitted = objective.fitted(model, self.held_out) if self.held_out else {}
        return self.inference_config | temperature | fitted


def finetuning_job(
    data: LabelledData,
    objective: type[FinetuningObjective],
    context: ObjectiveContext,
    params: FinetuneParams,
    model: PreTrainedModel,
    *,
    adaptation: Adaptation | None = None,
) -> Job:
    """A job on the labelled rows, for `finetune` and `scratch`; `adaptation` is already applied to `model`."""
    rows, held_out = (data.training_rows(objective, split) for split in ("train", "validation"))
    weights = data.weights()
    training = objective(rows, context)
    validation = objective(held_out, context) if params.evaluate_every else None
    parts = mixture.parts_of(held_out, weights) if params.evaluate_every else {}
    schedule = adaptation.unfreeze_schedule(model, len(training) / params.batch_size) if adaptation else {}
    return Job(
        model=model,
        inputs=context.inputs,
        objective=training,
        validation=validation,
        params=params,
        steps=-(-params.epochs * len(training) // params.batch_size),
        inference_config=objective.inference_config(context),
        example=objective.example(context),
        seed=context.seed,
        unfreeze_schedule=schedule,
        calibration=objective(held_out, context) if params.calibrate else None,
        held_out=partial(data.rows, objective, "validation"),
        mixture=mixture.of(rows, weights, training, context),
        validation_parts={name: objective(part, context) for name, part in parts.items() if part},
    )


@contextmanager
def process_group(key: str) -> Iterator[World]:
    """The processes that train; DataError if their inputs differ. key: the hexadecimal hash of the inputs."""
    with parallel.init_process_group() as world:
        if world.size > 1 and not world.all_equal(int(key[:15], 16)):
            raise DataError("the machines differ in params.yaml, code or data", "bring them to the same state")
        yield world


def cost_of(stage: Stage, job: Job, world: World) -> Cost:
    """Job.cost; call it before any training, for the heap keeps the memory that training has used."""
    strategy = stage.params.launch.strategy
    return job.cost(stage.name, world.device, processes=world.size, strategy=strategy)


def train(
    stage: Stage, job: Job, cost: Cost, world: World, *, folder: Path, report: Callable[[Record | Validation], None]
) -> tuple[PreTrainedModel, State]:
    """loop.train, with checkpoints in `folder`."""
    peak = world.size * peak_flops(world.device, job.params.precision) if world.device.type == "cuda" else None
    with closing(Checkpoints(folder, world)) as checkpoints:
        return loop.train(
            job.model,
            job.objective,
            job.params,
            job.steps,
            seed=job.seed,
            report=report,
            validation=job.validation,
            checkpoints=checkpoints,
            world=world,
            strategy=stage.params.launch.strategy,
            unfreeze_schedule=job.unfreeze_schedule,
            mixture=job.mixture,
            validation_parts=job.validation_parts,
            utilisation_per_token=cost.flops / cost.tokens / peak if peak else None,
        )


def run_training(stage: Stage, job: Job, *, out: str) -> None:
    """Train, or resume a stopped run; write the model to `out`, and its learning curve to reports/curves."""
    trained = sum(parameter.numel() for parameter in job.model.parameters() if parameter.requires_grad)
    began = time.monotonic()
    with process_group(stage.key) as world:
        figures = tell(stage, job) if not world.rank else {}
        cost = cost_of(stage, job, world)
        model, state = train(stage, job, cost, world, folder=stage.checkpoints, report=stage.reporter(job.steps))
        if world.rank:
            return
    hours = (time.monotonic() - began) / 3600
    write_learning_curve(stage.out(f"reports/curves/{stage.name}.csv"), state, cost.flops)
    adapter, merged = adapters.weights(model), adapters.merge(model, stage.out(out).parent)
    config = job.inference_config_of(merged)
    files = cast("BaseObjective", job.objective).files(merged)
    build.save(merged, job.inputs, stage.out(out), config, files=files)
    adapters.save(adapter, stage.out(out) / "adapter")
    stage.run.metrics(
        {
            **figures,
            **({"train_loss": state.records[-1].loss} if state.records else {}),
            "epochs": state.step * job.params.batch_size / len(job.objective),
            "parameters": model.num_parameters(),
            "flops": cost.flops * state.step,
            "device_hours": hours * world.size,
            "trained_parameters": trained,
            "trained_share": trained / model.num_parameters(),
            "skipped_steps": state.skipped,
            **({"temperature": config["temperature"]} if job.calibration else {}),
        }
    )
    stage.model(out, [job.example])


def tell(stage: Stage, job: Job) -> dict[str, float]:
    """Show the warnings about the rows; the figures of those that are trained on."""
    warnings, figures = cast("BaseObjective", job.objective).told()
    if job.validation:
        warnings += [f"validation: {text}" for text in cast("BaseObjective", job.validation).told()[0]]
    for text in warnings:
        stage.warn(text)
    draws = job.mixture.draws() if job.mixture else {}
    return figures | {f"share_{part}": count / len(job.objective) for part, count in draws.items() if part}


def write_learning_curve(path: Path, state: State, flops: int) -> None:
    """Write step, loss (nats), learning rate, FLOPs so far and validation metrics as CSV; flops: of one step.

    Speed is left out, for it varies between runs.
    """
    rows: dict[int, dict[str, str]] = {}
    for record in state.records:
        values = {"loss": f"{record.loss:.6f}", "learning_rate": f"{record.learning_rate:.8g}"}
        rows[record.step] = {"step": str(record.step)} | values
    for validation in state.validations:
        values = {f"validation_{name}": f"{value:.6f}" for name, value in validation.metrics.items()}
        rows.setdefault(validation.step, {"step": str(validation.step)}).update(values)
    for step, row in rows.items():
        row["flops"] = str(flops * step)
    validated = [f"validation_{name}" for name in (state.validations[0].metrics if state.validations else ())]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["step", "loss", "learning_rate", "flops", *validated], lineterminator="\n")
        table.writeheader()
        table.writerows(rows[step] for step in sorted(rows))
