"""Build a model from params, or load one from a folder or the hub: transformers' Auto classes, offline.

`objective` is a class of pretune/objectives/: it defines the Auto class and the head for its labels.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME

from pretune.errors import DataError, ParamsError, did_you_mean
from pretune.models import fit, weights
from pretune.predictor.linear import LinearConfig, LinearModel

if TYPE_CHECKING:
    from pretune.config.params import ModelParams, TeacherParams


DOWNLOAD = "PRETUNE_DOWNLOAD"  # 1 allows fetching `model.init` from the hub
INFERENCE_CONFIG = "pretune.json"  # next to the weights: the predictor and its settings
PINNED = re.compile(r"(?P<name>[\w.\-]+(?:/[\w.\-]+)?)@(?P<revision>[0-9a-f]{40})")
INDIRECT = {"modernbert": {"global_attn_every_n_layers"}}  # arguments of a configuration that are no fields of it
OFFSET = {"camembert", "roberta", "xlm-roberta"}  # positions start after the padding index
DERIVED = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id",
           "decoder_start_token_id", "forced_eos_token_id", "id2label", "label2id", "num_labels", "problem_type",
           "architectures", "transformers_version", "auto_map")  # fmt: skip
HELP = "edit `model` in params.yaml (docs/models.md), then run again"
CONFIG_HELP = "with a checkpoint, `config: {}` is usual (docs/models.md); edit `model` in params.yaml, then run again"
DAMAGED = (SafetensorError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
LOADING = {"use_safetensors": True, "trust_remote_code": False}


AutoConfig.register("linear", LinearConfig, exist_ok=True)
AutoModel.register(LinearConfig, LinearModel, exist_ok=True)


def families(auto: Any) -> set[str]:
    """The model types that an Auto class can build."""
    return set(auto._model_mapping._model_mapping)


def text_shape(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Configuration values that follow from a tokenizer; each configuration takes the keys that it has."""
    return {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id,
        "forced_eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }


def problems(model: ModelParams) -> list[str]:
    """What is wrong with the section `model`, one line each: unknown type, unknown keys, incompatible values."""
    if model.type not in CONFIG_MAPPING:
        near = did_you_mean(model.type, CONFIG_MAPPING)
        return [f"model.type: no architecture `{model.type}` in transformers{near}"]
    config_class = CONFIG_MAPPING[model.type]
    derived = [key for key in model.config if key in DERIVED]
    known = _keys(config_class) - set(DERIVED)
    unknown = [key for key in model.config if key not in known and key not in derived]
    errors = [f"model.config.{key}: follows from the data and the objective; leave it out" for key in derived]
    errors += [f"model.config.{key}: no setting of {model.type}{did_you_mean(key, known)}" for key in unknown]
    if not errors:
        try:
            config = AutoConfig.for_model(model.type, **copy.deepcopy(model.config))
        except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
            return [f"model.config: {' '.join(str(error).split())}"]
        width, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 1)
        factor = 2 if hasattr(config, "rope_parameters") else 1  # rotary embeddings rotate pairs
        own_head_size = "head_dim" in model.config or hasattr(config, "d_kv")  # does not follow from hidden_size
        if model.init is None and not own_head_size and width % (factor * heads):
            word = "an even multiple" if factor == 2 else "a multiple"
            errors.append(f"model.config: hidden_size {width} must be {word} of num_attention_heads {heads}")
    return errors


def source(
    model: ModelParams | TeacherParams, dep: Callable[[str], Path], *, section: str = "model"
) -> Path | str | None:
    """Where the weights come from: `dep(folder)`, NAME@REVISION of the hub, or None for random ones."""
    if model.init is None or PINNED.fullmatch(model.init):
        return model.init
    if re.fullmatch(r"[^/]+(/[^/]+)?@[^/]*", model.init):
        raise ParamsError(
            f"{section}.init: {model.init} is not pinned", "write NAME@REVISION, the revision as 40 hexadecimal digits"
        )
    return dep(model.init)


def config_for(model: ModelParams, shape: Mapping[str, Any], source: Path | str | None = None) -> PreTrainedConfig:
    """The configuration of the model: `model.config`, and for other keys `shape`, which follows from its inputs.

    With a checkpoint as `source`, those of its configuration instead of `shape`. Raises ParamsError if type,
    vocabulary or a key of `model.config` do not match the checkpoint.
    """
    errors = problems(model)
    pretrained = None if source is None else configuration(source)
    if pretrained is not None and pretrained.model_type != model.type:
        errors.append(f"model.type: {model.type}, but model.init holds a {pretrained.model_type}")
    if pretrained is not None and shape.get("vocab_size", 0) > getattr(pretrained, "vocab_size", 0):
        errors.append(
            f"model.init: it has {pretrained.vocab_size} tokens, the tokenizer {shape['vocab_size']}: "
            "prepare.tokenizer has to be the one that the checkpoint was trained with"
        )
    if pretrained is not None and not errors:
        errors = fit.problems(pretrained, model.config)
    if errors:
        raise ParamsError(errors, CONFIG_HELP if pretrained else HELP)
    settings = copy.deepcopy(model.config)
    if pretrained is not None:
        return fit.changed(pretrained, settings)
    config_class = CONFIG_MAPPING[model.type]
    keys = _keys(config_class) | ({"decoder_start_token_id"} if config_class.is_encoder_decoder else set())  # not in t5
    derived = {key: value for key, value in shape.items() if key in keys}
    if "max_position_embeddings" in derived and model.type in OFFSET:
        derived["max_position_embeddings"] += int(shape["pad_token_id"]) + 1
    config: PreTrainedConfig = AutoConfig.for_model(model.type, **derived | settings)
    return config


def first(objective: Any, model: ModelParams, inputs: Any, dep: Callable[[str], Path]) -> PreTrainedModel:
    """The model before pretraining: with random weights, or those of the checkpoint `model.init`."""
    checkpoint = source(model, dep)
    config = config_for(model, objective.shape(inputs), checkpoint)
    return new(objective, config) if checkpoint is None else load(objective, checkpoint, config=config)[0]


def configuration(source: Path | str) -> PreTrainedConfig:
    """The configuration of the checkpoint `source`; DataError if there is none, or one that refers to code."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(**location(source), trust_remote_code=False)
    except (OSError, ValueError) as error:  # ValueError: no configuration, or one of an unknown type
        raise _missing(source, error) from None
    except DAMAGED as error:
        raise _damaged(source, error) from None
    if "auto_map" in config.to_dict():
        raise DataError(f"{source} asks to run code (`auto_map`), which is never done", "use another model")
    return config


def model_type(folder: Path) -> str:
    """The type of the model in `folder`."""
    return str(configuration(folder).model_type)


def new(objective: Any, config: PreTrainedConfig, labels: Iterable[str] = ()) -> PreTrainedModel:
    """A model with random weights, drawn from torch's global generator."""
    config = type(config).from_dict(config.to_dict() | objective.head(list(labels)))
    return _model(objective.auto.from_config(config, dtype=torch.float32))


def load(
    objective: Any,
    source: Path | str,
    labels: Iterable[str] | None = None,
    config: PreTrainedConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model from the folder `source` or from the hub, and the names of its new weights, which are random.

    With `labels` the model gets a head for them; without, it is as it was saved. dtype: of its weights. Raises
    DataError if other weights are missing or do not fit.
    """
    config = config or configuration(source)
    if labels is not None:
        config = type(config).from_dict(config.to_dict() | objective.head(list(labels)))
    options = LOADING | {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        model, info = objective.auto.from_pretrained(**location(source), config=config, **options)
    except OSError as error:
        raise _missing(source, error) from None
    except DAMAGED as error:
        raise _damaged(source, error) from None
    fit.check_loaded(model, info, source, new_head=labels is not None)
    new_weights = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    return _model(model), frozenset(new_weights)


def stored_dtype(source: Path | str) -> torch.dtype:
    """The type in which a model is saved that was trained from the checkpoint: bf16 if it is, else fp32."""
    return weights.dtype(weights.header(weights.files(location(source))))


def save(
    model: PreTrainedModel,
    inputs: Any,
    folder: Path,
    inference_config: Mapping[str, Any],
    *,
    files: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write model, input pipeline and `inference_config` to `folder`, in transformers' format with safetensors.

    files: more of them, {path: JSON}.
    """
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    _save_inputs(inputs, folder, inference_config)
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_whole(objective: Any, source: Path | str, config: PreTrainedConfig) -> bool:
    """Whether the checkpoint has every weight of the model of `objective`, and no layers more: none would be new."""
    return not fit.left_out(configuration(source), config) and fit.is_whole(
        objective.auto, config, weights.header(weights.files(location(source)))
    )


def take_over(
    source: Path | str,
    config: PreTrainedConfig,
    inputs: Any,
    folder: Path,
    inference_config: Mapping[str, Any],
    *,
    place: Callable[[Path, Path], None] = weights.copy,
) -> int:
    """Write the checkpoint `source` to `folder` as `save` would, without loading it; returns its parameters.

    place: called with each file of weights and where it belongs.
    """
    files = weights.files(location(source))
    generation = weights.find(location(source), GENERATION_CONFIG_NAME)
    folder.mkdir(parents=True)
    for path in [*files, *([generation] if generation else [])]:
        place(path, folder / path.name)
    config.save_pretrained(folder)
    _save_inputs(inputs, folder, inference_config)
    return sum(prod(shape) for _, shape in weights.header(files).values())


def _save_inputs(inputs: Any, folder: Path, inference_config: Mapping[str, Any]) -> None:
    inputs.save_pretrained(folder)
    text = json.dumps(dict(inference_config), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / INFERENCE_CONFIG).write_text(text + "\n", encoding="utf-8")


def inference_config(folder: Path) -> dict[str, Any]:
    """The `inference_config` that was saved with the model in `folder`."""
    return dict(json.loads((folder / INFERENCE_CONFIG).read_text(encoding="utf-8")))


def location(source: Path | str) -> dict[str, Any]:
    """The arguments of `from_pretrained` for the location; nothing is fetched unless DOWNLOAD allows it."""
    pinned = PINNED.fullmatch(source) if isinstance(source, str) else None
    if pinned:
        offline = os.environ.get(DOWNLOAD) != "1"
        name, revision = pinned["name"], pinned["revision"]
        return {"pretrained_model_name_or_path": name, "revision": revision, "local_files_only": offline}
    return {"pretrained_model_name_or_path": _safe(Path(source)), "local_files_only": True}


def is_cached(source: str) -> bool:
    """Whether the configuration of a checkpoint of the hub is on this machine."""
    pinned = PINNED.fullmatch(source)
    return pinned is not None and isinstance(
        try_to_load_from_cache(pinned["name"], CONFIG_NAME, revision=pinned["revision"]), str
    )


def _missing(source: Path | str, error: Exception) -> DataError:
    """The error for a checkpoint, or a file of it, that is missing."""
    reason = str(error).splitlines()[0].partition(". ")[0]  # the rest suggests other options and branches
    if isinstance(source, Path):
        return DataError(f"{source}: {reason}", "only weights in safetensors are read: pickled ones can run code")
    if os.environ.get(DOWNLOAD) != "1":
        return DataError(
            f"model.init: {source} is not on this machine: {reason}",
            f"{DOWNLOAD}=1 pretune run   (fetches it), or name a folder",
        )
    return DataError(
        f"model.init: {source} cannot be fetched: {reason}",
        "check the name, the commit and the network, and that its weights are in safetensors; or name a folder",
    )


def _damaged(source: Path | str, error: Exception) -> DataError:
    """The error for a checkpoint of which a file holds what no checkpoint holds."""
    reason = (str(error).splitlines() or [""])[0]
    return DataError(f"{source} cannot be opened ({type(error).__name__}: {reason:.200})", "fetch the checkpoint again")


def _safe(folder: Path) -> Path:
    """The folder itself; DataError if it holds no model, or one whose configuration refers to code."""
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no model: there is no config.json", "name a folder in transformers' format")
    if b'"auto_map"' in (folder / "config.json").read_bytes():
        raise DataError(f"{folder}/config.json asks to run code (`auto_map`), which is never done", "use another model")
    return folder


def _keys(config_class: type[PreTrainedConfig]) -> set[str]:
    """The arguments that a configuration takes."""
    names = {field.name for field in fields(config_class)} | set(config_class.attribute_map)
    return names | INDIRECT.get(config_class.model_type, set())


def _model(model: Any) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    return model
