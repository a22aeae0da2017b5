"""The training loop: the same one for pretraining and for finetuning, on one process or many.

Everything that varies with the step (samples, masking, dropout, learning rate) is a function of
the seed and the step, so a run that is resumed goes on as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pretune.errors import DivergedError, TerminatedError
from pretune.models import heads
from pretune.runtime.events import Record, Validation
from pretune.training import dataloader, device, memory, optimizer, parallel, schedule
from pretune.training.state import State

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams
    from pretune.objectives.protocol import Batch, Objective
    from pretune.training.checkpoint import Checkpoints
    from pretune.training.parallel import World

LOG_EVERY = 10  # steps


class LossOf(nn.Module):
    """Objective and model as one module: what DDP, FSDP2 and compile wrap."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, batch: Batch, scored_by: Objective | None = None) -> Any:
        """See Objective.loss; with `scored_by` its Objective.score."""
        return scored_by.score(self.model, batch) if scored_by else self._objective.loss(self.model, batch)


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
) -> tuple[PreTrainedModel, State]:
    """Take optimizer steps on `model` until there have been `steps` in all; return it trained.

    Goes on from the newest of `checkpoints`. The loss of a step is the sum over all its rows by
    their count, into whatever batches and processes they are divided. Raises DivergedError after
    more than `params.max_skipped_steps` steps that were not finite; TerminatedError or KeyboardInterrupt, with
    a checkpoint, on SIGTERM or SIGINT. `utilisation_per_token`: the share of the processors'
    FLOP/s that one token per second takes. `unfreeze_schedule`: the step from
    which a parameter is trained, if not from the first.
    """
    world = world or parallel.single_process()
    learner = Learner(model, objective, params, world=world, strategy=strategy, unfreeze_schedule=unfreeze_schedule)
    state = learner.resume(checkpoints)
    order = dataloader.EpochSampler(len(objective), params.batch_size, seed)
    parts = params.gradient_accumulation_steps
    mine = range(world.rank * parts, (world.rank + 1) * parts)
    ahead = range(state.step, state.step if _enough(state, params.patience) else steps)
    batches = dataloader.batches(objective, order, ahead, parts=parts * world.size, mine=mine, workers=workers)
    meter = Meter(world, utilisation_per_token)
    with _signals() as received, closing(batches):
        for batch in batches:
            rate = schedule.learning_rate(state.step, steps, params)
            torch.manual_seed(_seed_of(seed, state.step, world.rank))  # of dropout
            learner.unfreeze(state.step)
            learner.step(batch, rate)
            learner.average(state.step)
            meter.count(batch)
            state.step += 1
            last = state.step == steps
            if validation and params.evaluate_every and (state.step % params.evaluate_every == 0 or last):
                with meter.paused():
                    state.validations.append(learner.validate(validation, state.step))
                    _keep_best(learner, state, params.metric_for_best_model)
                report(state.validations[-1])
                last = last or _enough(state, params.patience)
            if state.step % LOG_EVERY == 0 or last:
                loss, counted, skipped = learner.read()
                state.skipped += skipped
                _refuse_divergence(state, params.max_skipped_steps, steps)
                if counted:
                    state.records.append(meter.record(state.step, loss / counted, rate))
                    report(state.records[-1])
            call = world.all_reduce_max(received() or int(checkpoints is not None and checkpoints.due()))
            if checkpoints and call:
                checkpoints.save(state.step, learner.tensors(), asdict(state))
            if call > 1:  # a signal to any of the processes
                _leave(call, checkpoints, state.step, steps)
            if last:
                break
    return learner.finish(), state


class Learner:
    """A model with its optimizers: takes a step, measures, and hands out and takes back its tensors."""

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        params: TrainingParams,
        *,
        world: World,
        strategy: str,
        unfreeze_schedule: Mapping[str, int] | None = None,
    ) -> None:
        self._params, self._world = params, world
        self._attention = model.config._attn_implementation
        heads.prepare(model)
        if params.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.model = model.train()
        self._loss = parallel.wrap(LossOf(model, objective), world, strategy)
        if params.compile:
            self._loss.compile()
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._optimizers = optimizer.build(model, params)
        self._unfreeze_schedule, self._frozen = unfreeze_schedule or {}, list[nn.Parameter]()
        if self._unfreeze_schedule:  # the state of a checkpoint is then that of all parameters, whichever learn already
            optimizer.materialize(self._optimizers)
        self._tally = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, steps counted, steps skipped
        self._average: dict[str, Tensor] | None = None
        self._best: dict[str, Tensor] | None = None
        if params.ema_decay:
            self._average = {name: each.detach().clone() for name, each in self._trained.items()}
        if params.metric_for_best_model != "last":
            self.remember()

    def unfreeze(self, step: int) -> None:
        """Have those parameters learn whose time has come."""
        self._frozen = [self._trained[name] for name, first in self._unfreeze_schedule.items() if first > step]
        if self._world.size == 1:  # DDP and FSDP2 count on a gradient of each parameter
            for name, first in self._unfreeze_schedule.items():
                self._trained[name].requires_grad_(first <= step)

    def step(self, batches: list[Batch], rate: float) -> None:
        """One optimizer step on the rows of `batches`, unless loss or gradient is not finite."""
        world = self._world
        batches = [batch.to(world.device) for batch in batches]
        count = world.all_reduce_sum(torch.full((), float(sum(batch.count for batch in batches)), device=world.device))
        loss = torch.zeros((), device=world.device)
        for number, batch in enumerate(batches, start=1):
            with parallel.grad_sync(self._loss, last=number == len(batches)):
                with device.autocast(world.device, self._params.precision):
                    part = self._loss(batch) / count
                (part * world.size).backward()  # DDP and FSDP2 take the mean over processes
            loss += part.detach()
        world.all_reduce_sum(loss)
        for frozen in self._frozen:
            frozen.grad = None
        parameters = list(self._trained.values())
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        nn.utils.clip_grads_with_norm_(parameters, self._params.gradient_clip, norm)
        optimizer.set_rate(self._optimizers, rate)
        optimizer.step(self._optimizers, finite)
        self._tally += torch.stack([loss.where(finite, 0), finite.to(loss.dtype), (~finite).to(loss.dtype)])
        for each in self._optimizers:
            each.zero_grad(set_to_none=True)

    def average(self, step: int) -> None:
        """Move the averaged weights towards those after `step` (from 0): an exponential moving average.

        Its decay rises to `ema_decay`, so that the first weights, which are random, are soon forgotten.
        """
        if self._average is not None:
            decay = min(self._params.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self._average.values()), [e.detach() for e in self._trained.values()], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if it keeps any."""
        if self._average is None:
            yield
            return
        current = {name: each.detach().clone() for name, each in self._trained.items()}
        self._take(self._average)
        yield
        self._take(current)

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        for name, each in self._trained.items():
            each.data.copy_(weights[name])

    def read(self) -> tuple[float, int, int]:
        """Sum of the losses, steps counted and steps skipped since the last call: the one place that waits for them."""
        loss, counted, skipped = self._tally.tolist()
        self._tally.zero_()
        return loss, int(counted), int(skipped)

    def validate(self, objective: Objective, step: int) -> Validation:
        """Means over all samples of `objective`, by the averaged weights where there are any."""
        world, parts = self._world, self._params.gradient_accumulation_steps
        rows = self._params.batch_size // (parts * world.size)
        samples = np.arange(len(objective))
        chunks = np.array_split(samples, -(-len(samples) // rows))
        sums: dict[str, Tensor] = {}
        count = 0
        self.model.eval()
        with (
            torch.no_grad(),
            self.averaged(),
            device.autocast(world.device, self._params.precision),
            parallel.eval_module(self._loss) as module,
        ):
            for first in range(0, len(chunks), world.size):  # each process takes one; some repeat one and count nothing
                place = first + world.rank
                chunk = chunks[place % len(chunks)]
                batch = objective.batch(np.zeros_like(chunk), chunk).to(world.device)
                weight = int(place < len(chunks))
                count += batch.count * weight
                for name, value in module(batch, objective).items():
                    sums[name] = sums.get(name, 0.0) + value.double() * weight
        self.model.train()
        total = float(world.all_reduce_sum(torch.tensor(float(count), dtype=torch.float64, device=world.device)))
        return Validation(step, {name: float(world.all_reduce_sum(value)) / total for name, value in sums.items()})

    def remember(self) -> None:
        """Keep the weights that validation looks at as the best."""
        self._best = {name: each.detach().clone() for name, each in (self._average or self._trained).items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, by name."""
        found = {f"model.{name}": each.data for name, each in self._trained.items()}
        found["tally"] = self._tally
        found |= {f"average.{name}": each for name, each in (self._average or {}).items()}
        found |= {f"best.{name}": each for name, each in (self._best or {}).items()}
        names = {id(each): name for name, each in self._trained.items()}
        for each in self._optimizers:
            for parameter, values in each.state.items():
                found |= {f"optimizer.{names[id(parameter)]}.{key}": value for key, value in values.items()}
        return found

    def resume(self, checkpoints: Checkpoints | None) -> State:
        """Take back what the newest checkpoint holds."""
        if not checkpoints:
            return State()
        optimizer.materialize(self._optimizers)
        facts = checkpoints.load(self.tensors())
        return State.of(facts) if facts else State()

    def finish(self) -> PreTrainedModel:
        """The model with its best, averaged or last weights, whole, as transformers runs it."""
        weights = self._best or self._average
        if weights:
            self._take(weights)
        model = parallel.gather_full_model(self.model, self._world)
        if self._params.gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.set_attn_implementation(self._attention)
        return model.eval()


class Meter:
    """Speed since the last record, and memory. `utilisation_per_token`: see train."""

    def __init__(self, world: World, utilisation_per_token: float | None) -> None:
        self._world, self._per_token = world, utilisation_per_token
        self._tokens, self._steps, self._began = 0, 0, time.perf_counter()

    def count(self, batches: list[Batch]) -> None:
        """A step has been taken on these."""
        self._steps += 1
        self._tokens += sum(batch.tokens for batch in batches)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens here is no training."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def record(self, step: int, loss: float, rate: float) -> Record:
        """The record of the steps counted, which are then forgotten."""
        tokens = int(self._world.all_reduce_sum(torch.tensor(self._tokens, device=self._world.device)))
        now = time.perf_counter()
        seconds = now - self._began
        used = None if self._per_token is None else self._per_token * tokens / seconds
        highest = memory.highest(self._world.device) / 1e9
        found = Record(step, loss, rate, self._steps / seconds, tokens / seconds, used, highest)
        self._tokens, self._steps, self._began = 0, 0, now
        return found


def _seed_of(*key: int) -> int:
    """32 bits in which all of `key` counts: of a longer seed, the generator of a CPU takes the lower half only."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _refuse_divergence(state: State, max_skipped_steps: int, steps: int) -> None:
    if state.skipped > min(max_skipped_steps, state.step - 1):
        raise DivergedError(
            f"{state.skipped} of the first {state.step} of {steps} steps had a loss or gradient that was not finite; "
            f"`max_skipped_steps` allows {max_skipped_steps}, and never all",
            "lower learning_rate or gradient_clip in params.yaml, then run again",
        )


def _keep_best(learner: Learner, state: State, metric: str) -> None:
    if metric == "last":
        return
    sign = -1 if metric == "loss" else 1
    newest, best = (sign * state.validations[place].metrics[metric] for place in (-1, state.best))
    if len(state.validations) == 1 or not (math.isnan(newest) or newest <= best):
        state.best = len(state.validations) - 1
        learner.remember()


def _enough(state: State, patience: int) -> bool:
    return bool(patience) and len(state.validations) - 1 - state.best >= patience


@contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """SIGTERM and SIGINT wait for the end of the step; a second one ends the process at once."""
    received = 0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal received
        received = number
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, checkpoints: Checkpoints | None, step: int, steps: int) -> None:
    if checkpoints:
        checkpoints.close()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError(f"stopped by SIGTERM after step {step} of {steps}", "pretune run   (goes on there)")
