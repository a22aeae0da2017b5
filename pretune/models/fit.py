"""Whether the weights of a checkpoint fit a configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from pretune.errors import DataError
from pretune.models.layers import LAYER
from pretune.models.weights import Header

LAYERS = "num_hidden_layers"  # the name that all configurations know
Shapes = dict[str, tuple[int, ...]]


def problems(pretrained: PreTrainedConfig, settings: Mapping[str, Any]) -> list[str]:
    """The keys of `model.config` with which weights would have other names or shapes than the checkpoint's.

    Fewer layers are allowed: they are the first of the checkpoint.
    """
    values = pretrained.to_dict()
    others = {key: value for key, value in settings.items() if getattr(pretrained, key, None) != value}
    expected = _shapes(AutoModel, pretrained, {}) if others else None
    return [
        f"model.config.{key}: {value}, but the checkpoint in model.init has {values.get(key, 'none')}"
        for key, value in others.items()
        if not _agree(key, _shapes(AutoModel, pretrained, {key: value}), expected)
    ]


def changed(pretrained: PreTrainedConfig, settings: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration of the checkpoint with other values; with fewer layers, their types are those of the first."""
    values = copy.deepcopy(pretrained.to_dict()) | copy.deepcopy(dict(settings))
    if LAYERS in settings and isinstance(types := values.get("layer_types"), list):
        values["layer_types"] = types[: settings[LAYERS]]
    return type(pretrained).from_dict(values)


def left_out(pretrained: PreTrainedConfig, config: PreTrainedConfig) -> int:
    """The number of layers of the checkpoint that a model of `config` leaves out."""
    return max(0, int(getattr(pretrained, LAYERS, 0)) - int(getattr(config, LAYERS, 0)))


def _agree(key: str, shapes: Shapes | None, expected: Shapes | None) -> bool:
    if key != LAYERS or shapes is None or expected is None:
        return shapes == expected
    return shapes.items() <= expected.items()


def is_whole(auto: Any, config: PreTrainedConfig, tensors: Header) -> bool:
    """Whether the files hold every parameter of the model of the Auto class: none would be new."""
    expected = _shapes(auto, config, {})
    return expected is not None and all(tensors.get(name, ("", None))[1] == shape for name, shape in expected.items())


def check_loaded(model: PreTrainedModel, info: Mapping[str, Any], source: Path | str, *, new_head: bool) -> None:
    """Raise DataError if weights within the layers are missing, or if any but those of a new head do not fit.

    info: `loading_info` of transformers, which gives such weights random values without an error.
    """
    prefix = f"{model.base_model_prefix}."
    body = {f"{prefix}{name}" for name, _ in model.base_model.named_parameters()} if new_head else set()
    misfits = [each for each in sorted(info["mismatched_keys"]) if not new_head or each[0] in body]
    missing = sorted(name for name in info["missing_keys"] if LAYER.search(f".{name}"))
    errors = [f"{source}: {name} has the shape {tuple(is_)}, not {tuple(wanted)}" for name, is_, wanted in misfits[:3]]
    errors += [f"{source}: {name} is missing" for name in missing[:3]]
    if left := len(misfits) + len(missing) - len(errors):
        errors.append(f"{source}: {left} more do not fit")
    if errors:
        raise DataError(errors, "its config.json is not that of these weights: fetch both from the same place")


def _shapes(auto: Any, config: PreTrainedConfig, changes: Mapping[str, Any]) -> Shapes | None:
    """The shapes of the parameters, tied ones once; None for a configuration of which there is no model."""
    try:
        with torch.device("meta"), no_init_weights():
            model = auto.from_config(changed(config, changes))
        model.tie_weights()  # no_init_weights leaves it out
    except Exception:  # of any kind: transformers checks little of a configuration
        return None
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
