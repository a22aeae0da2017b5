"""Build a model from params, or load one from a folder or the hub: transformers' Auto classes, offline.

`kind` is a class of pretune/objectives/: it says which Auto class, and what head its labels ask for.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pretune.errors import DataError, ParamsError, did_you_mean
from pretune.predictor.linear import LinearConfig, LinearModel

if TYPE_CHECKING:
    from pretune.config.params import ModelParams


DOWNLOAD = "PRETUNE_DOWNLOAD"  # set to 1, it lets `model.init` be fetched from the hub
INFERENCE_CONFIG = "pretune.json"  # beside the weights: how the model answers
PINNED = re.compile(r"(?P<name>[\w.\-]+(?:/[\w.\-]+)?)@(?P<revision>[0-9a-f]{40})")
INDIRECT = {
    "modernbert": {"global_attn_every_n_layers"}
}  # keys that a configuration takes without a field of that name
OFFSET = {"camembert", "roberta", "xlm-roberta"}  # their positions start after the padding index
DERIVED = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id",
           "decoder_start_token_id", "forced_eos_token_id", "id2label", "label2id", "num_labels", "problem_type",
           "architectures", "transformers_version", "auto_map")  # fmt: skip
LOADING = {"use_safetensors": True, "trust_remote_code": False, "dtype": torch.float32}


AutoConfig.register("linear", LinearConfig, exist_ok=True)
AutoModel.register(LinearConfig, LinearModel, exist_ok=True)


def families(auto: Any) -> set[str]:
    """The model types that an Auto class knows."""
    return set(auto._model_mapping._model_mapping)


def text_shape(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What follows from a tokenizer; a configuration takes those of the keys that it has."""
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
    """What is wrong with the section `model`: unknown type, unknown keys, values that do not go together."""
    if model.type not in CONFIG_MAPPING:
        near = did_you_mean(model.type, CONFIG_MAPPING)
        return [f"model.type: no architecture `{model.type}` in transformers{near}"]
    kind = CONFIG_MAPPING[model.type]
    derived = [key for key in model.config if key in DERIVED]
    known = _keys(kind) - set(DERIVED)
    unknown = [key for key in model.config if key not in known and key not in derived]
    found = [f"model.config.{key}: follows from the data and the objective; leave it out" for key in derived]
    found += [f"model.config.{key}: no setting of {model.type}{did_you_mean(key, known)}" for key in unknown]
    if not found:
        try:
            config = AutoConfig.for_model(model.type, **copy.deepcopy(model.config))
        except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
            return [f"model.config: {' '.join(str(error).split())}"]
        width, heads = getattr(config, "hidden_size", 0), getattr(config, "num_attention_heads", 1)
        by_two = 2 if hasattr(config, "rope_parameters") else 1  # rotary positions take pairs
        own = "head_dim" in model.config or hasattr(
            config, "d_kv"
        )  # a size of heads that does not follow from the width
        if not own and width % (by_two * heads):
            word = "an even multiple" if by_two == 2 else "a multiple"
            found.append(f"model.config: hidden_size {width} must be {word} of num_attention_heads {heads}")
    return found


def source(model: ModelParams, dep: Callable[[str], Path]) -> Path | str | None:
    """Where the first weights come from; a folder has to be an input that `dep` knows. None: they are random."""
    if model.init is None or PINNED.fullmatch(model.init):
        return model.init
    if re.fullmatch(r"[^/]+(/[^/]+)?@[^/]*", model.init):
        raise ParamsError(
            f"model.init: {model.init} is not pinned", "write NAME@REVISION, the revision as 40 hexadecimal digits"
        )
    return dep(model.init)


def config_for(model: ModelParams, shape: Mapping[str, Any], source: Path | str | None = None) -> PreTrainedConfig:
    """The configuration of the model: `shape` follows from its inputs, `model.config` has the last word.

    With a checkpoint as `source` it is that of the checkpoint, with what `model.config` changes of it.
    """
    found = problems(model)
    known = None if source is None else configuration(source)
    if known is not None and known.model_type != model.type:
        found.append(f"model.type: {model.type}, but model.init holds a {known.model_type}")
    if known is not None and shape.get("vocab_size", 0) > getattr(known, "vocab_size", 0):
        found.append(
            f"model.init: it knows {known.vocab_size} tokens, the tokenizer has {shape['vocab_size']}: "
            "prepare.tokenizer has to be the one that the checkpoint was trained with"
        )
    if found:
        raise ParamsError(found, "edit `model` in params.yaml (docs/models.md), then run again")
    own = copy.deepcopy(model.config)
    if known is not None:
        return type(known).from_dict(known.to_dict() | own)
    kind = CONFIG_MAPPING[model.type]
    keys = _keys(kind) | ({"decoder_start_token_id"} if kind.is_encoder_decoder else set())  # a t5 lacks the field
    follows = {key: value for key, value in shape.items() if key in keys}
    if "max_position_embeddings" in follows and model.type in OFFSET:
        follows["max_position_embeddings"] += int(shape["pad_token_id"]) + 1
    config: PreTrainedConfig = AutoConfig.for_model(model.type, **follows | own)
    return config


def first(kind: Any, model: ModelParams, inputs: Any, dep: Callable[[str], Path]) -> PreTrainedModel:
    """The model as pretraining finds it: new, or from the checkpoint `model.init`."""
    where = source(model, dep)
    config = config_for(model, kind.shape(inputs), where)
    return new(kind, config) if where is None else load(kind, where, config=config)[0]


def configuration(source: Path | str) -> PreTrainedConfig:
    """The configuration of the checkpoint `source`; DataError where there is none, or one that asks to run code."""
    try:
        found: PreTrainedConfig = AutoConfig.from_pretrained(**_where(source), trust_remote_code=False)
    except (OSError, ValueError) as error:  # a ValueError: a configuration of no known type, or none
        raise _absent(source, error) from None
    if "auto_map" in found.to_dict():
        raise DataError(f"{source} asks to run code (`auto_map`), which is never done", "use another model")
    return found


def model_type(folder: Path) -> str:
    """The type of the model in `folder`."""
    return str(configuration(folder).model_type)


def new(kind: Any, config: PreTrainedConfig, labels: Iterable[str] = ()) -> PreTrainedModel:
    """A model with random weights (draws from torch's global generator)."""
    config = type(config).from_dict(config.to_dict() | kind.head(list(labels)))
    return _model(kind.auto.from_config(config, dtype=torch.float32))


def load(
    kind: Any, source: Path | str, labels: Iterable[str] | None = None, config: PreTrainedConfig | None = None
) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model in the folder `source`, or of the hub; and the names of its weights that are not from there but new.

    With `labels` its head is made for them; without, all is as it was saved.
    """
    found = config or configuration(source)
    if labels is not None:
        found = type(found).from_dict(found.to_dict() | kind.head(list(labels)))
    options = LOADING | {"output_loading_info": True, "ignore_mismatched_sizes": labels is not None}
    try:
        model, info = kind.auto.from_pretrained(**_where(source), config=found, **options)
    except OSError as error:
        raise _absent(source, error) from None
    fresh = {*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])}
    return _model(model), frozenset(fresh)


def save(model: PreTrainedModel, inputs: Any, folder: Path, inference_config: Mapping[str, Any]) -> None:
    """Write a folder in transformers' format, weights in safetensors, with input pipeline and `inference_config`."""
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    inputs.save_pretrained(folder)
    text = json.dumps(dict(inference_config), indent=1, ensure_ascii=False, sort_keys=True)
    (folder / INFERENCE_CONFIG).write_text(text + "\n", encoding="utf-8")


def inference_config(folder: Path) -> dict[str, Any]:
    """What `save` was given for the model in `folder`."""
    return dict(json.loads((folder / INFERENCE_CONFIG).read_text(encoding="utf-8")))


def _where(source: Path | str) -> dict[str, Any]:
    """The arguments of `from_pretrained` that say where; nothing is fetched unless DOWNLOAD says so."""
    pinned = PINNED.fullmatch(source) if isinstance(source, str) else None
    if pinned:
        offline = os.environ.get(DOWNLOAD) != "1"
        name, revision = pinned["name"], pinned["revision"]
        return {"pretrained_model_name_or_path": name, "revision": revision, "local_files_only": offline}
    return {"pretrained_model_name_or_path": _safe(Path(source)), "local_files_only": True}


def _absent(source: Path | str, error: Exception) -> DataError:
    """Why a checkpoint, or the part of it that is read, is not there."""
    reason = str(error).splitlines()[0].partition(". ")[0]  # what follows tells of other options and of branches
    if isinstance(source, Path):
        return DataError(f"{source}: {reason}", "only weights in safetensors are read: pickled ones can run code")
    if os.environ.get(DOWNLOAD) != "1":
        what = f"model.init: {source} is not on this machine: {reason}"
        return DataError(what, f"{DOWNLOAD}=1 pretune run   (fetches it), or name a folder")
    return DataError(
        f"model.init: {source} cannot be fetched: {reason}",
        "see that name, commit and network are right, and that there are weights in safetensors; or name a folder",
    )


def _safe(folder: Path) -> Path:
    """The folder, unless its configuration asks for code of its own to be run."""
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder} holds no model: there is no config.json", "name a folder in transformers' format")
    if '"auto_map"' in (folder / "config.json").read_text(encoding="utf-8"):
        raise DataError(f"{folder}/config.json asks to run code (`auto_map`), which is never done", "use another model")
    return folder


def _keys(kind: type[PreTrainedConfig]) -> set[str]:
    return {each.name for each in fields(kind)} | set(kind.attribute_map) | INDIRECT.get(kind.model_type, set())


def _model(model: Any) -> PreTrainedModel:
    assert isinstance(model, PreTrainedModel)
    return model
