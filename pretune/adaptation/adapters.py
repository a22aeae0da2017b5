"""Adapters of peft, added to a model in place: its class stays the same, and so does all code that runs it.

Importing peft takes a second, so functions import it where they need it: full finetuning never does.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pretune.adaptation import quantization
from pretune.errors import ParamsError, did_you_mean
from pretune.models import layers

# peft imports bitsandbytes where it is installed, which then tells everybody that it lacks a kernel from the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
OWN = {"peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "task_type",
       "inference_mode", "modules_to_save", "runtime_config"}  # fmt: skip
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {"dora": ("LORA", {"use_dora": True})}
REFUSED = {
    "adalora": "it has to reallocate its ranks during training",
    "beft": "it cannot be merged into a matrix without a bias",
    "boft": "it compiles code while it runs",
    "lily": "it cannot be merged into the model",
    "poly": "it needs a task number in each row",
    "shadow": "it adds a second model",
    "trainable_tokens": "it needs the ids of new tokens",
    "xlora": "it mixes existing adapters",
}


def methods() -> list[str]:
    """The names of the methods whose adapters can be added to a model and merged."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    names = [
        peft_type.value.lower()
        for peft_type, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if _injectable(peft_type, tuner)
    ]
    return sorted({*names, *ALIASES} - set(REFUSED))


def refusal(method: str) -> str:
    """Why a method of peft is not offered; "" if peft has no such method."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    if method not in {peft_type.value.lower() for peft_type in PEFT_TYPE_TO_CONFIG_MAPPING}:
        return ""
    tuner = PEFT_TYPE_TO_TUNER_MAPPING.get(PeftType(method.upper()))
    shared = getattr(tuner, "uses_shared_state", False)
    default = "its layers share weights outside the model" if shared else "it adds no weights to be merged"
    return f" (peft has it, but {REFUSED.get(method, default)})"


def problems(method: str, settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with the settings of a method, as far as it can be told without a model; one line each."""
    config_class, fixed = _config_class(method)
    known = [field.name for field in fields(config_class) if field.name not in OWN and field.name not in fixed]
    return [
        f"adaptation.settings.{key}: no setting of {method}{did_you_mean(key, known)}"
        for key in settings
        if key not in known
    ]


def config_of(method: str, settings: Mapping[str, Any], model: PreTrainedModel) -> Any:
    """Peft's configuration; without `target_modules` every matrix within the layers is adapted.

    Raises ParamsError if peft refuses the settings, or if the model has no layers.
    """
    config_class, fixed = _config_class(method)
    chosen = fixed | copy.deepcopy(dict(settings))
    names = {field.name for field in fields(config_class)}
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
        chosen.setdefault("fan_in_fan_out", True)  # gpt2 stores its matrices transposed
    try:
        return config_class(**chosen)
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
    """Add adapters to `model` and freeze everything else."""
    import peft

    try:
        peft.inject_adapter_in_model(config, model)
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise _refused(config.peft_type.value.lower(), error) from None


def like(model: PreTrainedModel, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """A new model with the architecture and adapters of `model`, and the same parameters frozen; other weights."""
    copied = type(model)(copy.deepcopy(config or model.config))
    if peft_config := getattr(model, "peft_config", None):
        add(copied, copy.deepcopy(peft_config["default"]))
    quantization.like(copied, model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_(name in trained)
    return copied


def merge(model: PreTrainedModel, folder: Path | None = None) -> PreTrainedModel:
    """Merge the adapters into the weights, dequantised first, in place; a model with neither stays as it is.

    folder: where the matrices that were quantised lie in files then (quantization.to_file); the model is on the CPU.
    Matrix by matrix: at no time are there two copies of all of them.
    """
    stored = False
    for name, module in tuners(model).items():
        stored |= merge_layer(module, folder)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    stored |= quantization.dequantize(model, folder)  # those without an adapter
    return model.cpu() if folder and stored else model


def merge_layer(module: Any, folder: Path | None) -> bool:
    """Merge the adapter of one of `tuners` into the module below; whether its matrix was a quantised one."""
    was_quantised = quantization.dequantize(module)
    module.merge(safe_merge=True)
    if was_quantised and folder:
        quantization.to_file(module.get_base_layer(), folder)
    return was_quantised


def tuners(model: PreTrainedModel) -> dict[str, Any]:
    """The layers of peft in `model`, which hold the adapters, by name."""
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def weights(model: PreTrainedModel) -> tuple[Any, dict[str, Tensor]] | None:
    """The adapters of `model`: peft's configuration, and the weights by their names in peft's files; None if none."""
    peft_config = getattr(model, "peft_config", None)
    if not peft_config:
        return None
    from peft.utils import get_peft_model_state_dict

    config = copy.deepcopy(peft_config["default"])
    config.inference_mode = True
    state = get_peft_model_state_dict(model, adapter_name="default")
    return config, {f"base_model.model.{name}": value.detach().clone().contiguous() for name, value in state.items()}


def save(adapters: tuple[Any, dict[str, Tensor]] | None, folder: Path) -> None:
    """Write the adapters returned by `weights` in peft's format; nothing for None."""
    if adapters:
        config, tensors = adapters
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        for field in fields(config):
            if isinstance(names := getattr(config, field.name), set):
                setattr(config, field.name, sorted(names))  # the order of a set differs between processes
        config.save_pretrained(str(folder))


def _injectable(peft_type: Any, tuner: Any) -> bool:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return not getattr(tuner, "uses_shared_state", True) and "target_modules" in {
        field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[peft_type])
    }


def _config_class(method: str) -> tuple[Any, dict[str, Any]]:
    """Peft's configuration class for a method, and the settings that the method fixes."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name, fixed = ALIASES.get(method, (method.upper(), {}))
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)], fixed


def _refused(method: str, error: Exception) -> ParamsError:
    reason = " ".join(str(error).split())
    return ParamsError(
        f"adaptation.settings: peft refuses {method}: {reason}", "edit `adaptation` in params.yaml (docs/models.md)"
    )
