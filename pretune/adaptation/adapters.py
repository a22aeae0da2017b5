"""Adapters of peft, put into a model in place: it stays the class it is, so everything runs as without them.

peft takes a second to import, so only what needs it does: training all of a model goes without.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pretune.errors import ParamsError, did_you_mean
from pretune.models import layers

OWN = {"peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type",
       "inference_mode", "modules_to_save", "runtime_config"}  # fmt: skip
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {"dora": ("LORA", {"use_dora": True})}
REFUSED = {
    "adalora": "its ranks have to be divided anew while training goes on",
    "beft": "it cannot be merged where a matrix has no bias",
    "boft": "it compiles code while it runs",
    "lily": "it cannot be merged into the model",
    "poly": "it needs the number of a task with each row",
    "shadow": "it is a second model beside the first",
    "trainable_tokens": "it needs the numbers of new tokens",
    "xlora": "it mixes adapters that are there already",
}


def methods() -> list[str]:
    """The names of the methods that can be put into a model and merged."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    found = [kind.value.lower() for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items() if _injectable(kind, tuner)]
    return sorted({*found, *ALIASES} - set(REFUSED))


def refusal(method: str) -> str:
    """Why a method of peft is not offered; nothing where there is no such method."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    known = {kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    if method not in known:
        return ""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(method.upper()))
    shared = getattr(tuner, "uses_shared_state", False)
    usual = "its layers share weights that peft keeps beside the model" if shared else "it adds no weights to be merged"
    return f" (peft has it, but {REFUSED.get(method, usual)})"


def problems(method: str, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of a method, without a model."""
    kind, fixed = _kind(method)
    known = [each.name for each in fields(kind) if each.name not in OWN and each.name not in fixed]
    return [
        f"adaptation.settings.{key}: no setting of {method}{did_you_mean(key, known)}"
        for key in settings
        if key not in known
    ]


def config_of(method: str, settings: Mapping[str, Any], model: PreTrainedModel) -> Any:
    """Peft's configuration; without `target_modules` every matrix within the layers is adapted."""
    kind, fixed = _kind(method)
    chosen = fixed | copy.deepcopy(dict(settings))
    names = {each.name for each in fields(kind)}
    if "target_modules" in names and not chosen.get("target_modules"):
        chosen["target_modules"] = targets(model)
        if not chosen["target_modules"]:
            raise ParamsError(
                f"adaptation.method: {method}; a {model.config.model_type} has no layers to adapt",
                "name adaptation.settings.target_modules, or adaptation.method: full",
            )
        if "feedforward_modules" in names:
            chosen.setdefault("feedforward_modules", [])
    if "fan_in_fan_out" in names and any(isinstance(module, Conv1D) for module in model.modules()):
        chosen.setdefault("fan_in_fan_out", True)  # gpt2 keeps its matrices the other way round
    try:
        return kind(**chosen)
    except (TypeError, ValueError) as error:
        raise _refused(method, error) from None


def targets(model: PreTrainedModel) -> list[str]:
    """The names of the linear modules within the layers."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and layers.LAYER.search(f".{name}.")
    ]


def add(model: PreTrainedModel, config: Any) -> None:
    """Put adapters into `model`; they alone are trained."""
    import peft

    try:
        peft.inject_adapter_in_model(config, model)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise _refused(config.peft_type.value.lower(), error) from None


def like(model: PreTrainedModel, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """A model made like `model`, adapters included: other weights, the same ones trained."""
    made = type(model)(copy.deepcopy(config or model.config))
    if found := getattr(model, "peft_config", None):
        add(made, copy.deepcopy(found["default"]))
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    for name, each in made.named_parameters():
        each.requires_grad_(name in trained)
    return made


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Work the adapters into the weights, in place; without adapters nothing happens."""
    if not hasattr(model, "peft_config"):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config
    return model


def weights(model: PreTrainedModel) -> tuple[Any, dict[str, Tensor]] | None:
    """The adapters of `model`: peft's configuration, and their weights by the names that peft gives them in files."""
    found = getattr(model, "peft_config", None)
    if not found:
        return None
    from peft.utils import get_peft_model_state_dict

    config = copy.deepcopy(found["default"])
    config.inference_mode = True
    own = get_peft_model_state_dict(model, adapter_name="default")
    return config, {f"base_model.model.{name}": each.detach().clone().contiguous() for name, each in own.items()}


def save(adapters: tuple[Any, dict[str, Tensor]] | None, folder: Path) -> None:
    """Write what `weights` found as peft does; nothing, where there are none."""
    if adapters:
        config, found = adapters
        folder.mkdir()
        save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))


def _injectable(kind: Any, tuner: Any) -> bool:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return not getattr(tuner, "uses_shared_state", True) and "target_modules" in {
        each.name for each in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])
    }


def _kind(method: str) -> tuple[Any, dict[str, Any]]:
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name, fixed = ALIASES.get(method, (method.upper(), {}))
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)], fixed


def _refused(method: str, error: Exception) -> ParamsError:
    words = " ".join(str(error).split())
    return ParamsError(
        f"adaptation.settings: peft refuses {method}: {words}", "edit `adaptation` in params.yaml (docs/models.md)"
    )
