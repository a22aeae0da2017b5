"""A run that cannot fit into memory says so before it starts, with settings that would make it fit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from pretune.adaptation import adapters
from pretune.errors import DoesNotFitError
from pretune.training import memory

if TYPE_CHECKING:
    from pretune.config.params import TrainingParams
    from pretune.training.estimate.cost import Cost

GB = 1e9


def checked(
    price: Callable[[PreTrainedModel, TrainingParams], Cost],
    model: PreTrainedModel,
    params: TrainingParams,
    *,
    device: torch.device,
    processes: int,
    stage: str,
) -> Cost:
    """The price of training `model`; DoesNotFitError where there is not the memory for it."""
    held, most = memory.held(device), memory.available(device)
    cost = price(model, params)
    needed = held + cost.memory + cost.snapshot
    if needed <= most:
        return cost

    def needs(model: PreTrainedModel, params: TrainingParams) -> int:
        less = price(model, params)
        return held + less.memory + less.snapshot

    section = type(params).__name__.removesuffix("Params").lower()
    problem = f"{stage} needs {needed / GB:.1f} GB of memory, and {most / GB:.1f} GB are available"
    settings: dict[str, Any] = {}
    for change in savings(params, processes):
        settings = {f"{section}.{key}": value for key, value in change.items()}
        if (less := needs(model, params.model_copy(update=change))) <= most:
            raise _refusal(problem, settings, stage, less)
        smallest = params.model_copy(update=change)
    problem += "; dividing a step into parts does not save enough"
    layers = int(model.config.num_hidden_layers)
    while layers > 1:
        layers //= 2
        if (less := needs(_with_layers(model, layers), smallest)) <= most:
            raise _refusal(problem, {"model.config.num_hidden_layers": layers} | settings, stage, less)
    raise DoesNotFitError(problem, "make `model` smaller, or train where there is more memory")


def savings(params: TrainingParams, processes: int) -> Iterator[dict[str, Any]]:
    """Changes of settings that cost only time, the cheapest first: smaller parts of a step, activations twice."""
    rows = params.batch_size // processes
    parts = [number for number in range(params.gradient_accumulation_steps, rows + 1) if rows % number == 0]
    for number in parts[1:]:
        yield {"gradient_accumulation_steps": number}
    for number in parts:
        more = {"gradient_accumulation_steps": number} if number > parts[0] else {}
        yield {"gradient_checkpointing": True} | more


def _refusal(problem: str, settings: dict[str, Any], stage: str, needed: int) -> DoesNotFitError:
    words = [f"{key}={str(value).lower()}" for key, value in settings.items()]
    options = " ".join(f"--set {word}" for word in words)
    would = f"with {' and '.join(words)} it needs {needed / GB:.1f} GB"
    return DoesNotFitError([problem, would], f"pretune run {stage} {options}   (or write it into params.yaml)")


def _with_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The same with fewer layers, without data."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    with torch.device("meta"), no_init_weights():
        smaller = adapters.like(model, config)
    smaller.tie_weights()
    return smaller
