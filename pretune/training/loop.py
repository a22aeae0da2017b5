"""The training loop, the same for pretraining and finetuning, on one process or several.

Everything that varies with the step (samples, masking, dropout, learning rate) is a function of
the seed and the step, so a resumed run continues exactly as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from transformers import PreTrainedModel

from pretune import process
from pretune.errors import DivergedError, TerminatedError
from pretune.runtime.events import ERRORS, Record, Validation
from pretune.training import dataloader, device, parallel, schedule
from pretune.training.learner import Learner
from pretune.training.state import State
from pretune.training.throughput import ThroughputMeter

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams
    from pretune.objectives.protocol import Objective
    from pretune.training.checkpoint import Checkpoints
    from pretune.training.mixture import Mixture
    from pretune.training.parallel import World

LOG_EVERY = 10  # steps


def train(
    model: PreTrainedModel,
    objective: Objective,
    params: TrainingParams,
    steps: int,
    *,
    seed: int,
    report: Callable[[Record | Validation], None],
    validation: Objective | None = None,
    checkpoints: Checkpoints | None = None,
    world: World | None = None,
    strategy: str = "ddp",
    workers: int = 0,
    utilisation_per_token: float | None = None,
    unfreeze_schedule: Mapping[str, int] | None = None,
    mixture: Mixture | None = None,
    validation_parts: Mapping[str, Objective] | None = None,
) -> tuple[PreTrainedModel, State]:
    """Train `model` up to step `steps`, from the newest of `checkpoints`; return the trained model and the state.

    The loss of a step is the sum over all its rows divided by their count, however they are split into
    batches and processes.

    report: called with each record and validation. strategy: `ddp` or `fsdp`. workers: threads that prepare batches.
    utilisation_per_token: the share of the processors' FLOP/s that one token per second takes.
    unfreeze_schedule: the first step in which a parameter is trained; those not listed are trained from step 0.
    mixture: of the samples of `objective`. validation_parts: the validation samples of each part, whose losses are
    measured too.

    Raises DivergedError after more than `params.max_skipped_steps` steps with a loss or gradient that is not
    finite. On SIGTERM or SIGINT it writes a checkpoint and raises TerminatedError or KeyboardInterrupt.
    """
    world = world or parallel.single_process()
    learner = Learner(model, objective, params, world=world, strategy=strategy, unfreeze_schedule=unfreeze_schedule)
    state = learner.resume(checkpoints)
    sampler = dataloader.EpochSampler(len(objective), params.batch_size, seed, mixture)
    parts = params.gradient_accumulation_steps
    mine = range(world.rank * parts, (world.rank + 1) * parts)
    remaining = range(state.step, state.step if _out_of_patience(state, params.patience) else steps)
    batches = dataloader.batches(objective, sampler, remaining, parts=parts * world.size, mine=mine, workers=workers)
    meter, kept = ThroughputMeter(world, utilisation_per_token), device.KeptMemory(world.device)
    with process.stop_signals() as signals, closing(batches):
        for batch in batches:
            rate = schedule.learning_rate(
                state.step, steps, peak=params.learning_rate, warmup=params.warmup, schedule=params.schedule
            )
            torch.manual_seed(_seed_of(seed, state.step, world.rank))  # of dropout
            learner.unfreeze(state.step)
            learner.step(batch, rate)
            learner.update_average(state.step)
            meter.count(batch)
            state.step += 1
            last = state.step == steps
            if validation and params.evaluate_every and (state.step % params.evaluate_every == 0 or last):
                with meter.paused():
                    state.validations.append(_validate(learner, validation, validation_parts or {}, state.step))
                    _select_best(learner, state, params.metric_for_best_model)
                report(state.validations[-1])
                last = last or _out_of_patience(state, params.patience)
            if state.step % LOG_EVERY == 0 or last:
                kept.bound()
                loss, counted, skipped = learner.read_tally()
                state.skipped += skipped
                _refuse_divergence(state, params.max_skipped_steps, steps)
                if counted:
                    state.records.append(meter.record(state.step, loss / counted, rate))
                    report(state.records[-1])
            request = max(signals, default=0) or int(checkpoints is not None and checkpoints.due())
            request = world.all_reduce_max(request)  # 1: a checkpoint is due; more: a signal to any of the processes
            if checkpoints and request:
                checkpoints.save(state.step, learner.tensors(), asdict(state))
            if request > 1:
                _stop(request, checkpoints, state.step, steps)
            if last:
                break
    return learner.finish(), state


def _validate(learner: Learner, validation: Objective, parts: Mapping[str, Objective], step: int) -> Validation:
    """The metrics of all validation samples, and the loss on those of each part."""
    losses = {f"loss_{name}": learner.validate(part, step).metrics["loss"] for name, part in parts.items()}
    return Validation(step, learner.validate(validation, step).metrics | losses)


def _seed_of(*key: int) -> int:
    """A seed of 32 bits that depends on all of `key`: the CPU's generator ignores the upper half of a longer one."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _select_best(learner: Learner, state: State, metric: str) -> None:
    """Keep the weights if the last validation is the best so far by `metric`; the first of equals counts."""
    if metric == "last":
        return
    sign = -1 if metric in ERRORS else 1
    newest, best = (sign * state.validations[index].metrics[metric] for index in (-1, state.best))
    if len(state.validations) == 1 or not (math.isnan(newest) or newest <= best):
        state.best = len(state.validations) - 1
        learner.keep_best()


def _out_of_patience(state: State, patience: int) -> bool:
    return bool(patience) and len(state.validations) - 1 - state.best >= patience


def _refuse_divergence(state: State, max_skipped_steps: int, steps: int) -> None:
    if state.skipped > min(max_skipped_steps, state.step - 1):
        raise DivergedError(
            f"{state.skipped} of the first {state.step} of {steps} steps had a loss or gradient that was not finite; "
            f"`max_skipped_steps` allows {max_skipped_steps}, and never all",
            "lower learning_rate or gradient_clip in params.yaml, then run again",
        )


def _stop(number: int, checkpoints: Checkpoints | None, step: int, steps: int) -> NoReturn:
    if checkpoints:
        checkpoints.close()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError(f"stopped by SIGTERM after step {step} of {steps}", "pretune run   (continues there)")
