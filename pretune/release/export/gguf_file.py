"""Write a decoder as GGUF, the format of llama.cpp, by the package `gguf`.

The families whose tensors llama.cpp stores one for one, with tokenizers of BPE on bytes. The rest is for llama.cpp's
own converter, which no package carries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pretune.errors import DataError, WorkspaceError
from pretune.predictor.chat import end_of_turn
from pretune.predictor.conversation import stop

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # llama.cpp knows a mistral as a llama
PRECISIONS = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
CONVERTER = "pretune export --format safetensors, then llama.cpp's: python convert_hf_to_gguf.py FOLDER --outtype f16"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPLITS = {GPT2: "gpt-2", LLAMA3: "llama-bpe", LLAMA3.replace("{1,3}", ""): "qwen2"}  # llama.cpp's names


def refusal(model: Any, tokenizer: Any) -> str:
    """Why a model cannot be written; "" if it can."""
    config = model.config
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    biases = config.model_type != "qwen2" and any(
        getattr(config, name, False) for name in ("attention_bias", "mlp_bias")
    )
    if config.model_type not in FAMILIES:
        return f"a {config.model_type} (those that can: {', '.join(FAMILIES)})"
    reasons = {
        f"rotary positions of the kind `{scaling}`": scaling != "default",
        "attention in a sliding window": "sliding_attention" in (getattr(config, "layer_types", None) or [])
        or bool(getattr(config, "sliding_window", None)),
        "biases": biases,
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        "a tokenizer other than BPE on bytes, split as gpt-2, llama 3, qwen 2 or SmolLM do": not _splits(tokenizer),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def write(model: Any, tokenizer: Any, path: Path, precision: str, *, chat: bool) -> None:
    """Write the model with its tokenizer and chat template; matrices in `precision`, vectors in f32.

    precision: a key of PRECISIONS; q8_0 stores blocks of 32 weights in 8 bits each with one scale. chat: prompts are
    conversations, whose template writes what begins them. DataError if the model cannot be written.
    """
    gguf = _package()
    if reason := refusal(model, tokenizer):
        raise DataError(f"GGUF cannot be written for {reason}", CONVERTER)
    architecture = "llama" if model.config.model_type == "mistral" else model.config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    _shape(writer, model.config, gguf.LlamaFileType["ALL_F32" if precision == "f32" else f"MOSTLY_{precision.upper()}"])
    _tokens(writer, gguf, tokenizer, model.config.vocab_size, chat=chat)
    kind = gguf.GGMLQuantizationType[PRECISIONS[precision]]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], model.config.num_hidden_layers)
    for name, values in _tensors(model, permuted=architecture == "llama"):
        quantized, stored = _quantized(gguf, values, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), quantized, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _package() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise WorkspaceError("gguf is missing", "pip install 'pretune[gguf]'") from None
    return gguf


def _shape(writer: Any, config: Any, file_type: Any) -> None:
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(file_type)


def _tokens(writer: Any, gguf: Any, tokenizer: Any, size: int, *, chat: bool) -> None:
    """Vocabulary, merges, kinds of tokens, what begins and ends a text, and the chat template."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    added = tokenizer.added_tokens_decoder
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splits(tokenizer))
    writer.add_token_list([by_id.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types([
        kinds.UNUSED if number not in by_id
        else kinds.NORMAL if number not in added
        else kinds.CONTROL if added[number].special
        else kinds.USER_DEFINED
        for number in range(size)
    ])  # fmt: skip
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    if begin is not None:
        writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end_of_turn(tokenizer))
    for token in stop(tokenizer) if chat else ():
        if token != end_of_turn(tokenizer):
            writer.add_eot_token_id(token)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(not chat and begin is not None and tokenizer("a")["input_ids"][0] == begin)
    writer.add_add_eos_token(False)  # noqa: FBT003 - a prompt does not end
    if chat:
        writer.add_chat_template(tokenizer.chat_template)


def _splits(tokenizer: Any) -> str:
    """Llama.cpp's name for how a tokenizer splits texts before BPE; "" if it has none, or the model is not byte BPE."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, splits = state["model"], state["pre_tokenizer"] or {}
    steps = splits.get("pretokenizers", [splits])
    last = steps[-1]
    plain = model["type"] == "BPE" and not model.get("byte_fallback") and (state["normalizer"] or {}).get("type") in {
        None, "NFC",
    }  # fmt: skip
    if not plain or last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return ""
    if len(steps) == 1:
        return "gpt-2" if last["use_regex"] else ""
    if len(steps) == 2 and steps[0]["type"] == "Digits" and steps[0]["individual_digits"] and last["use_regex"]:
        return "smollm"
    if len(steps) == 2 and steps[0]["type"] == "Split" and not last["use_regex"]:
        name = SPLITS.get(steps[0]["pattern"].get("Regex", ""), "")
        return name if (name == "llama-bpe") == bool(model.get("ignore_merges")) else ""
    return ""


def _tensors(model: Any, *, permuted: bool) -> Iterator[tuple[str, Tensor]]:
    """The weights by their names in transformers, in float32. Tied embeddings are stored once."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, values in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        part = name.split(".")[-2]
        full = values.detach().float().cpu()
        yield name, _permuted(full, heads[part]) if permuted and part in heads else full


def _permuted(values: Tensor, heads: int) -> Tensor:
    """The rows of each head in llama.cpp's order: it rotates neighbours, transformers rotates halves."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _quantized(gguf: Any, values: Tensor, kind: Any) -> tuple[npt.NDArray[Any], Any]:
    """The values as stored, and their type: vectors, and rows that blocks of 32 do not fill, keep f32 and f16."""
    types = gguf.GGMLQuantizationType
    if values.dim() == 1:
        kind = types.F32
    elif kind == types.Q8_0 and values.shape[-1] % 32:
        kind = types.F16
    return np.asarray(gguf.quants.quantize(values.contiguous().numpy().astype(np.float32), kind)), kind
