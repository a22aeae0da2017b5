"""Check before training that it fits into memory; the error names settings that would make it fit."""

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


def check(
    price: Callable[[PreTrainedModel, TrainingParams], Cost],
    model: PreTrainedModel,
    params: TrainingParams,
    *,
    device: torch.device,
    processes: int,
    stage: str,
) -> Cost:
    """The cost of training `model`, from `price`; DoesNotFitError if it needs more memory than is available."""
    held, available = memory.held(device), memory.available(device)
    cost = price(model, params)
    needed = held + cost.memory + cost.snapshot
    if needed <= available:
        return cost

    def needs(model: PreTrainedModel, params: TrainingParams) -> int:
        smaller = price(model, params)
        return held + smaller.memory + smaller.snapshot

    section = type(params).__name__.removesuffix("Params").lower()
    problem = f"{stage} needs {needed / GB:.1f} GB of memory, and {available / GB:.1f} GB are available"
    settings: dict[str, Any] = {}
    for change in savings(params, processes):
        settings = {f"{section}.{key}": value for key, value in change.items()}
        if (reduced := needs(model, params.model_copy(update=change))) <= available:
            raise _error(problem, settings, stage, reduced)
        smallest = params.model_copy(update=change)
    problem += "; dividing a step into parts does not save enough"
    layers = int(model.config.num_hidden_layers)
    while layers > 1:
        layers //= 2
        if (reduced := needs(_with_layers(model, layers), smallest)) <= available:
            raise _error(problem, {"model.config.num_hidden_layers": layers} | settings, stage, reduced)
    raise DoesNotFitError(problem, "make `model` smaller, or train where there is more memory")


def savings(params: TrainingParams, processes: int) -> Iterator[dict[str, Any]]:
    """Changes of settings that cost only time, the cheapest first: gradient accumulation, gradient checkpointing."""
    rows = params.batch_size // processes
    parts = [number for number in range(params.gradient_accumulation_steps, rows + 1) if rows % number == 0]
    for number in parts[1:]:
        yield {"gradient_accumulation_steps": number}
    for number in parts:
        accumulation = {"gradient_accumulation_steps": number} if number > parts[0] else {}
        yield {"gradient_checkpointing": True} | accumulation


def _error(problem: str, settings: dict[str, Any], stage: str, needed: int) -> DoesNotFitError:
    assignments = [f"{key}={str(value).lower()}" for key, value in settings.items()]
    options = " ".join(f"--set {assignment}" for assignment in assignments)
    fix = f"with {' and '.join(assignments)} it needs {needed / GB:.1f} GB"
    return DoesNotFitError([problem, fix], f"pretune run {stage} {options}   (or write it into params.yaml)")


def _with_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The model with fewer layers, without data."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    with torch.device("meta"), no_init_weights():
        smaller = adapters.like(model, config)
    smaller.tie_weights()
    return smaller
