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
from pretune.training import device, feed, memory, optimizer, parallel, schedule

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
    utilisation: float | None = None  # share of the FLOP/s that the processors can reach
    memory_gb: float = 0.0  # the most so far, of this process; on a GPU, of its card


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

    def forward(self, batch: Batch, scored_by: Objective | None = None) -> Any:
        """See Objective.loss; with `scored_by` its Objective.score."""
        return scored_by.score(self.model, batch) if scored_by else self._objective.loss(self.model, batch)


@dataclass
class State:
    """What a run knows besides tensors."""

    step: int = 0
    skipped: int = 0  # up to the last record
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
    effort: float | None = None,
    opens: Mapping[str, int] | None = None,
) -> tuple[PreTrainedModel, State]:
    """Take optimizer steps on `model` until there have been `steps` in all; return it trained.

    Goes on from the newest of `checkpoints`. The loss of a step is the sum over all its rows by
    their count, into whatever batches and processes they are divided. Raises DivergedError after
    more than `params.skips` steps that were not finite; TerminatedError or KeyboardInterrupt, with
    a checkpoint, on SIGTERM or SIGINT. `effort` is what share of the processors' FLOP/s it takes to
    read one token a second. `opens`: the step from which a parameter learns, if not from the first.
    """
    world = world or parallel.alone()
    learner = Learner(model, objective, params, world=world, strategy=strategy, opens=opens)
    state = learner.resume(checkpoints)
    order = feed.Order(len(objective), params.batch_size, seed)
    mine = range(world.rank * params.accumulation, (world.rank + 1) * params.accumulation)
    ahead = range(state.step, state.step if _enough(state, params.patience) else steps)
    batches = feed.batches(objective, order, ahead, parts=params.accumulation * world.size, mine=mine, workers=workers)
    meter = Meter(world, effort)
    with _signals() as received, closing(batches):
        for batch in batches:
            rate = schedule.learning_rate(state.step, steps, params)
            torch.manual_seed(_seed_of(seed, state.step, world.rank))  # of dropout
            learner.open(state.step)
            learner.step(batch, rate)
            learner.average(state.step)
            meter.count(batch)
            state.step += 1
            last = state.step == steps
            if validation and params.evaluate_every and (state.step % params.evaluate_every == 0 or last):
                with meter.paused():
                    state.validations.append(learner.validate(validation, state.step))
                    _keep_best(learner, state, params.select)
                report(state.validations[-1])
                last = last or _enough(state, params.patience)
            if state.step % LOG_EVERY == 0 or last:
                loss, counted, skipped = learner.read()
                state.skipped += skipped
                _refuse_divergence(state, params.skips, steps)
                if counted:
                    state.records.append(meter.record(state.step, loss / counted, rate))
                    report(state.records[-1])
            call = world.most(received() or int(checkpoints is not None and checkpoints.due()))
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
        opens: Mapping[str, int] | None = None,
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
        self._opens, self._closed = opens or {}, list[nn.Parameter]()
        if self._opens:  # the state of a checkpoint is then that of all parameters, whichever learn already
            optimizer.materialize(self._optimizers)
        self._tally = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, steps counted, steps skipped
        self._average: dict[str, Tensor] | None = None
        self._best: dict[str, Tensor] | None = None
        if params.ema_decay:
            self._average = {name: each.detach().clone() for name, each in self._trained.items()}
        if params.select != "last":
            self.remember()

    def open(self, step: int) -> None:
        """Have those parameters learn whose time has come."""
        self._closed = [self._trained[name] for name, first in self._opens.items() if first > step]
        if self._world.size == 1:  # DDP and FSDP2 count on a gradient of each parameter
            for name, first in self._opens.items():
                self._trained[name].requires_grad_(first <= step)

    def step(self, batches: list[Batch], rate: float) -> None:
        """One optimizer step on the rows of `batches`, unless loss or gradient is not finite."""
        world = self._world
        batches = [batch.to(world.device) for batch in batches]
        count = world.add(torch.full((), float(sum(batch.count for batch in batches)), device=world.device))
        loss = torch.zeros((), device=world.device)
        for number, batch in enumerate(batches, start=1):
            with parallel.gradients_shared(self._loss, last=number == len(batches)):
                with device.autocast(world.device, self._params.precision):
                    part = self._loss(batch) / count
                (part * world.size).backward()  # DDP and FSDP2 take the mean over processes
            loss += part.detach()
        world.add(loss)
        for closed in self._closed:
            closed.grad = None
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
        world, rows = self._world, self._params.batch_size // (self._params.accumulation * self._world.size)
        samples = np.arange(len(objective))
        chunks = np.array_split(samples, -(-len(samples) // rows))
        sums: dict[str, Tensor] = {}
        count = 0
        self.model.eval()
        with (
            torch.no_grad(),
            self.averaged(),
            device.autocast(world.device, self._params.precision),
            parallel.evaluated(self._loss) as module,
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
        total = float(world.add(torch.tensor(float(count), dtype=torch.float64, device=world.device)))
        return Validation(step, {name: float(world.add(value)) / total for name, value in sums.items()})

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
        model = parallel.whole(self.model, self._world)
        if self._params.gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.set_attn_implementation(self._attention)
        return model.eval()


class Meter:
    """Speed since the last record, and memory. `effort`: see train."""

    def __init__(self, world: World, effort: float | None) -> None:
        self._world, self._effort = world, effort
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
        tokens = int(self._world.add(torch.tensor(self._tokens, device=self._world.device)))
        now = time.perf_counter()
        seconds = now - self._began
        used = None if self._effort is None else self._effort * tokens / seconds
        highest = memory.highest(self._world.device) / 1e9
        found = Record(step, loss, rate, self._steps / seconds, tokens / seconds, used, highest)
        self._tokens, self._steps, self._began = 0, 0, now
        return found


def _seed_of(*key: int) -> int:
    """32 bits in which all of `key` counts: of a longer seed, the generator of a CPU takes the lower half only."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _refuse_divergence(state: State, skips: int, steps: int) -> None:
    if state.skipped > min(skips, state.step - 1):
        raise DivergedError(
            f"{state.skipped} of the first {state.step} of {steps} steps had a loss or gradient that was not finite; "
            f"`skips` allows {skips}, and never all",
            "lower learning_rate or gradient_clip in params.yaml, then run again",
        )


def _keep_best(learner: Learner, state: State, select: str) -> None:
    if select == "last":
        return
    sign = -1 if select == "loss" else 1
    newest, best = (sign * state.validations[place].metrics[select] for place in (-1, state.best))
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
