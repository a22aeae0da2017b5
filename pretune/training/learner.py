"""A model in training: optimizer steps, validation, and the tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pretune.adaptation import lora
from pretune.models import heads, layers
from pretune.objectives import generated
from pretune.runtime.events import Validation
from pretune.training import device, optimizer, parallel
from pretune.training.state import State

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams
    from pretune.objectives.protocol import Batch, Objective
    from pretune.training.checkpoint import Checkpoints
    from pretune.training.parallel import World


class LossModule(nn.Module):
    """Objective and model as one module, which DDP, FSDP2 and compile can wrap."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model, self._objective = model, objective

    def forward(self, batch: Batch, validation: Objective | None = None) -> Any:
        """The loss of the objective, or the scores of `validation` if it is passed."""
        return validation.score(self.model, batch) if validation else self._objective.loss(self.model, batch)


class Learner:
    """A model with its optimizers, and the averaged and the best weights.

    model: the model itself, not wrapped. Other arguments: as in loop.train.
    """

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
        if strategy != "fsdp":  # which shards parameters of one number format
            lora.fuse(model, bf16=device.computes_in_bf16(world.device, params.precision))
        if params.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.model = model.train()
        self._module = parallel.parallelize(LossModule(model, objective), world, strategy)
        # One layer is compiled for all, in a fraction of the time that the whole model takes.
        self._compiled = (layers.blocks(model) or [self._module]) if params.compile else []
        for module in self._compiled:
            module.compile()
        self._trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._optimizers = optimizer.build(model, params)
        self._unfreeze_schedule, self._frozen = unfreeze_schedule or {}, list[nn.Parameter]()
        if self._unfreeze_schedule:  # a checkpoint holds the state of all parameters, of frozen ones too
            optimizer.materialize(self._optimizers)
        self._tally = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, steps counted, steps skipped
        self._average: dict[str, Tensor] | None = None
        self._best: dict[str, Tensor] | None = None
        if params.ema_decay:
            self._average = {name: weight.detach().clone() for name, weight in self._trained.items()}
        if params.metric_for_best_model != "last":
            self.keep_best()

    def unfreeze(self, step: int) -> None:
        """Train the parameters that the schedule unfreezes up to `step`; the others stay frozen."""
        self._frozen = [self._trained[name] for name, first in self._unfreeze_schedule.items() if first > step]
        if self._world.size == 1:  # DDP and FSDP2 need a gradient of every parameter
            for name, first in self._unfreeze_schedule.items():
                self._trained[name].requires_grad_(first <= step)

    def step(self, batches: list[Batch], rate: float) -> None:
        """One optimizer step on the rows of `batches`, skipped if loss or gradient is not finite."""
        world = self._world
        batches = [batch.to(world.device) for batch in batches]
        count = world.all_reduce_sum(torch.full((), float(sum(batch.count for batch in batches)), device=world.device))
        loss = torch.zeros((), device=world.device)
        for number, batch in enumerate(batches, start=1):
            with parallel.grad_sync(self._module, last=number == len(batches)):
                with device.autocast(world.device, self._params.precision):
                    part = self._module(batch) / count
                (part * world.size).backward()  # DDP and FSDP2 take the mean over processes
            loss += part.detach()
        world.all_reduce_sum(loss)
        for frozen in self._frozen:
            frozen.grad = None
        weights = list(self._trained.values())
        norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        nn.utils.clip_grads_with_norm_(weights, self._params.gradient_clip, norm)
        optimizer.set_rate(self._optimizers, rate)
        optimizer.step(self._optimizers, finite)
        self._tally += torch.stack([loss.where(finite, 0), finite.to(loss.dtype), (~finite).to(loss.dtype)])
        optimizer.zero_grad(self._optimizers)

    def read_tally(self) -> tuple[float, int, int]:
        """Sum of the losses, steps counted and steps skipped since the last call. It synchronises with a GPU."""
        loss, counted, skipped = self._tally.tolist()
        self._tally.zero_()
        return loss, int(counted), int(skipped)

    def update_average(self, step: int) -> None:
        """Update the exponential moving average of the weights after `step` (from 0).

        Its decay rises to `ema_decay`, so that the random initial weights soon stop to count.
        """
        if self._average is not None:
            decay = min(self._params.ema_decay, (1 + step) / (10 + step))
            weights = [weight.detach() for weight in self._trained.values()]
            torch._foreach_lerp_(list(self._average.values()), weights, 1 - decay)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Inside the block the model has its averaged weights, if it keeps any."""
        if self._average is None:
            yield
            return
        current = {name: weight.detach().clone() for name, weight in self._trained.items()}
        self._set_weights(self._average)
        yield
        self._set_weights(current)

    def _set_weights(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._trained.items():
            weight.data.copy_(values[name])

    def keep_best(self) -> None:
        """Keep a copy of the weights that `validate` uses as the best ones."""
        self._best = {name: weight.detach().clone() for name, weight in (self._average or self._trained).items()}

    def validate(self, objective: Objective, step: int) -> Validation:
        """Means of the scores over all samples of `objective`, with the averaged weights if there are any."""
        world, parts = self._world, self._params.gradient_accumulation_steps
        rows = self._params.batch_size // (parts * world.size)
        samples = np.arange(len(objective))
        chunks = np.array_split(samples, -(-len(samples) // rows))
        sums: dict[str, Tensor] = {}
        count = 0
        self.model.eval()
        with (
            torch.no_grad(),
            self.averaged_weights(),
            device.autocast(world.device, self._params.precision),
            parallel.eval_module(self._module) as module,
        ):
            # Each process takes one chunk; those without one in the last round repeat one with weight 0.
            for first in range(0, len(chunks), world.size):
                index = first + world.rank
                chunk = chunks[index % len(chunks)]
                batch = objective.batch(np.zeros_like(chunk), chunk).to(world.device)
                weight = int(index < len(chunks))
                count += batch.count * weight
                for name, value in module(batch, objective).items():
                    sums[name] = sums.get(name, 0.0) + value.double() * weight
        self.model.train()
        total = float(world.all_reduce_sum(torch.tensor(float(count), dtype=torch.float64, device=world.device)))
        means = {name: float(world.all_reduce_sum(value)) / total for name, value in sums.items()}
        metric = self._params.metric_for_best_model
        if metric in getattr(objective, "generated", ()):
            means[metric] = self.measure_generated(objective, metric)
        return Validation(step, means)

    def measure_generated(self, objective: Any, metric: str) -> float:
        """A metric of the texts that the model generates for all samples, with the averaged weights if there are any.

        Process 0 generates, the others wait for its figure.
        """
        figure = torch.zeros((), dtype=torch.float64, device=self._world.device)
        self.model.eval()
        eager: Any = torch.compiler.set_stance("force_eager") if self._params.compile else nullcontext()
        with self.averaged_weights(), eager:  # each length of a cache would be compiled
            model = parallel.gather_full_model(self.model, self._world)
            if not self._world.rank:
                figure += generated.measure(objective.predict(model.eval()), metric)
        self.model.train()
        return float(self._world.all_reduce_sum(figure))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint, by name."""
        tensors = {f"model.{name}": weight.data for name, weight in self._trained.items()}
        tensors["tally"] = self._tally
        tensors |= {f"average.{name}": value for name, value in (self._average or {}).items()}
        tensors |= {f"best.{name}": value for name, value in (self._best or {}).items()}
        names = {id(weight): name for name, weight in self._trained.items()}
        for optim in self._optimizers:
            for weight, values in optim.state.items():
                tensors |= {f"optimizer.{names[id(weight)]}.{key}": value for key, value in values.items()}
        return tensors

    def resume(self, checkpoints: Checkpoints | None) -> State:
        """Load the newest checkpoint; the state of a new run if there is none."""
        if not checkpoints:
            return State()
        optimizer.materialize(self._optimizers)
        facts = checkpoints.load(self.tensors())
        return State.of(facts) if facts else State()

    def finish(self) -> PreTrainedModel:
        """The whole model, in eval mode with transformers' own attention; its best, averaged or last weights."""
        weights = self._best or self._average
        if weights:
            self._set_weights(weights)
        lora.unfuse(self.model)
        for module in self._compiled:
            module._compiled_call_impl = None
        model = parallel.gather_full_model(self.model, self._world)
        if self._params.gradient_checkpointing:
            model.activation_checkpointing_disable()
        model.set_attn_implementation(self._attention)
        return model.eval()
