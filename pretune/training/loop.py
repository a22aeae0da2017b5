"""The training loop: the same one for pretraining and for finetuning, on one process or many.

Everything that varies with the step (samples, masking, dropout, learning rate) is a function of
the seed and the step, so a run that is resumed goes on as if it had never stopped.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pretune.errors import DivergedError, TerminatedError
from pretune.models import heads
from pretune.training import device, feed, optimizer, parallel, schedule

if TYPE_CHECKING:
    from pretune.params import TrainingParams
    from pretune.training.checkpoint import Checkpoints
    from pretune.training.parallel import World

LOG_EVERY = 10  # steps


class Batch(Protocol):
    """Rows that one forward pass takes."""

    @property
    def count(self) -> int:
        """What the loss is a sum over: predicted tokens, or labels."""

    @property
    def tokens(self) -> int:
        """Tokens that are read."""

    def to(self, device: torch.device) -> Any:
        """The same on another device."""


class Objective(Protocol):
    """What is learnt."""

    def __len__(self) -> int:
        """Samples of an epoch."""

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> Any:
        """A Batch of these samples, each in its epoch: a pure function of the seed and the two arrays."""

    def loss(self, model: PreTrainedModel, batch: Any) -> Tensor:
        """The sum of the losses over `batch.count`."""

    def score(self, model: PreTrainedModel, batch: Any) -> dict[str, Tensor]:
        """Sums over `batch.count` by which a model is judged, `loss` among them."""


@dataclass(frozen=True)
class Record:
    """What is logged every LOG_EVERY steps: means since the last record."""

    step: int
    loss: float
    learning_rate: float
    steps_per_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class Validation:
    """Means over the validation samples after `step` steps."""

    step: int
    metrics: dict[str, float]


class LossOf(nn.Module):
    """Objective and model as one module: what DDP, FSDP2 and compile wrap."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, batch: Batch) -> Tensor:
        """See Objective.loss."""
        return self._objective.loss(self.model, batch)


@dataclass
class State:
    """What a run knows besides tensors; loss and counts are sums over the steps since the last record."""

    step: int = 0
    loss: float = 0.0
    counted: int = 0
    skipped: int = 0  # since the beginning
    records: list[Record] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    best: int = 0  # place in `validations`

    @classmethod
    def of(cls, facts: dict[str, Any]) -> State:
        """What `asdict` made of one, and JSON of that."""
        records = [Record(**each) for each in facts["records"]]
        validations = [Validation(**each) for each in facts["validations"]]
        return cls(**facts | {"records": records, "validations": validations})


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
) -> tuple[PreTrainedModel, State]:
    """Take optimizer steps on `model` until there have been `steps` in all; return it trained.

    Goes on from the newest of `checkpoints`. The loss of a step is the sum over all its rows by
    their count, into whatever batches and processes they are divided. Raises DivergedError after
    more than `params.skips` steps that were not finite; TerminatedError or KeyboardInterrupt, with
    a checkpoint, on SIGTERM or SIGINT.
    """
    world = world or parallel.alone()
    learner = Learner(model, objective, params, world=world, strategy=strategy)
    state = learner.resume(checkpoints)
    order = feed.Order(len(objective), params.batch_size, seed)
    mine = range(world.rank * params.accumulation, (world.rank + 1) * params.accumulation)
    batches = feed.batches(
        objective, order, range(state.step, steps), parts=params.accumulation * world.size, mine=mine, workers=workers
    )
    meter = Meter(world)
    with _signals() as received:
        for batch in batches:
            rate = schedule.learning_rate(state.step, steps, params)
            torch.manual_seed((seed * 2**24 + state.step) * 2**8 + world.rank)  # of dropout
            learner.step(batch, rate)
            meter.count(batch)
            state.step += 1
            last = state.step == steps
            if state.step % LOG_EVERY == 0 or last:
                learner.read(state)
                _refuse_divergence(state, params.skips, steps)
                if state.counted:
                    state.records.append(meter.record(state, rate))
                    report(state.records[-1])
                state.loss, state.counted = 0.0, 0
            if validation and params.evaluate_every and (state.step % params.evaluate_every == 0 or last):
                with meter.paused():
                    state.validations.append(learner.validate(validation, state.step))
                    _keep_best(learner, state, params.select)
                report(state.validations[-1])
                last = last or _enough(state, params.patience)
            if last:
                break
            if world.size == 1 or state.step % LOG_EVERY == 0:  # several processes agree at these steps
                number = world.first_says(received())
                if checkpoints and (number or checkpoints.due()):
                    learner.read(state)
                    checkpoints.save(state.step, learner.tensors(), asdict(state))
                if number:
                    _leave(number, checkpoints, state.step, steps)
    return learner.finish(), state


class Learner:
    """A model with its optimizers: takes a step, measures, and hands out and takes back its tensors."""

    def __init__(
        self, model: PreTrainedModel, objective: Objective, params: TrainingParams, *, world: World, strategy: str
    ) -> None:
        self._params, self._world = params, world
        self._attention = model.config._attn_implementation
        heads.prepare(model)
        if params.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = model.to(world.device).train()
        self._objective = objective
        module = LossOf(model, objective)
        self._loss: nn.Module = parallel.wrap(module, world, strategy) if world.size > 1 else module
        if params.compile:
            self._loss.compile()
        self._trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self._optimizers = optimizer.build(model, params)
        self._tally = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, steps counted, steps skipped
        self._best: dict[str, Tensor] | None = None
        if params.select != "last":
            self.remember()

    def step(self, batches: list[Batch], rate: float) -> None:
        """One optimizer step on the rows of `batches`, unless loss or gradient is not finite."""
        world = self._world
        batches = [batch.to(world.device) for batch in batches]
        count = world.add(torch.tensor(float(sum(batch.count for batch in batches)), device=world.device))
        loss = torch.zeros((), device=world.device)
        for number, batch in enumerate(batches, start=1):
            with parallel.gradients_shared(self._loss, last=number == len(batches)):
                with device.autocast(world.device, self._params.precision):
                    part = self._loss(batch) / count
                (part * world.size).backward()  # DDP and FSDP2 take the mean over processes
            loss += part.detach()
        world.add(loss)
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

    def read(self, state: State) -> None:
        """Move what the device has counted to `state`: the one place that waits for it."""
        loss, counted, skipped = self._tally.tolist()
        state.loss, state.counted, state.skipped = (
            state.loss + loss,
            state.counted + int(counted),
            state.skipped + int(skipped),
        )
        self._tally.zero_()

    def validate(self, objective: Objective, step: int) -> Validation:
        """Means over all samples of `objective`."""
        world, rows = self._world, self._params.batch_size // (self._params.accumulation * self._world.size)
        samples = np.arange(len(objective))
        chunks = np.array_split(samples, -(-len(samples) // rows))
        sums: dict[str, Tensor] = {}
        count = 0
        self.model.eval()
        with torch.no_grad(), device.autocast(world.device, self._params.precision):
            for first in range(0, len(chunks), world.size):  # each process takes one; some repeat one and count nothing
                place = first + world.rank
                chunk = chunks[place % len(chunks)]
                batch = objective.batch(np.zeros_like(chunk), chunk).to(world.device)
                weight = int(place < len(chunks))
                count += batch.count * weight
                for name, value in objective.score(self.model, batch).items():
                    sums[name] = sums.get(name, 0.0) + value.double() * weight
        self.model.train()
        total = float(world.add(torch.tensor(float(count), dtype=torch.float64, device=world.device)))
        return Validation(step, {name: float(world.add(value)) / total for name, value in sums.items()})

    def remember(self) -> None:
        """Keep the weights as they are as the best."""
        self._best = {name: each.detach().clone() for name, each in self._trained.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, by name."""
        found = {f"model.{name}": each.data for name, each in self._trained.items()}
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
        """The model with its last or best weights, whole, as transformers runs it."""
        if self._best is not None:
            for name, each in self._trained.items():
                each.data.copy_(self._best[name])
        model = parallel.whole(self.model)
        if self._params.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.set_attn_implementation(self._attention)
        return model.eval()


class Meter:
    """Speed since the last record."""

    def __init__(self, world: World) -> None:
        self._world, self._tokens, self._steps, self._began = world, 0, 0, time.perf_counter()

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

    def record(self, state: State, rate: float) -> Record:
        """The record of the steps counted, which are then forgotten."""
        tokens = int(self._world.add(torch.tensor(self._tokens, device=self._world.device)))
        now = time.perf_counter()
        seconds = now - self._began
        found = Record(state.step, state.loss / state.counted, rate, self._steps / seconds, tokens / seconds)
        self._tokens, self._steps, self._began = 0, 0, now
        return found


def _refuse_divergence(state: State, skips: int, steps: int) -> None:
    if state.skipped > skips:
        raise DivergedError(
            f"{state.skipped} of the first {state.step} of {steps} steps had a loss or gradient that was not finite, "
            f"more than `skips: {skips}`",
            "lower learning_rate or gradient_clip in params.yaml, then run again",
        )


def _keep_best(learner: Learner, state: State, select: str) -> None:
    if select == "last":
        return
    sign = -1 if select == "loss" else 1
    newest, best = (sign * state.validations[place].metrics[select] for place in (-1, state.best))
    if len(state.validations) == 1 or newest > best:
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
