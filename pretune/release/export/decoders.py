"""Export of models that write text: safetensors, adapters alone, GGUF.

What was written is opened as a server would open it, continues prompts of test rows by greedy search, and the original
model says how likely it finds the same tokens: what is exported answers as what was trained.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.predictor import inputs
from pretune.predictor.chat import end_of_turn
from pretune.predictor.conversation import render, stop, template_of
from pretune.release.export import gguf_file
from pretune.release.export.engines import NO_CODE, Engine, Steps, llama, located, set_ends, token_ids, transformers
from pretune.release.export.parity import Parity, kept, megabytes, record

FORMATS = ("safetensors", "adapter", "gguf")
ROWS = 16  # on which an exported model is compared
TOKENS = 32  # that it may write to each
TOP = 20  # tokens of each step whose log-probabilities are compared, if
LIKELY = math.log(0.01)  # they are above this, or the best: where all are as likely, none is above
TOLERANCE = {"f32": 0.01, "f16": 0.02, "bf16": 0.1, "q8_0": 0.5}  # nats; what rounding to a precision may change
SAME = 1e-3  # nats; where the weights are those that were trained
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Prompt:
    """What precedes the last answer of a conversation, or a text: as the model was trained to read it."""

    row: Row
    text: str
    ids: list[int]


def writes_text(model: Any) -> bool:
    """Whether a predictor's model writes text token by token, in one sequence with what it reads."""
    return getattr(model, "auto", None) == "AutoModelForCausalLM"


def export(
    model: Any, rows: list[Row], target: Path, *, to: str, precision: str | None, source: Path, base: str | Path
) -> Parity:
    """Write `model`, a predictor, into the folder `target`, and compare what was written with it on some of `rows`.

    to: of FORMATS. precision: f32, f16 or bf16, for GGUF also q8_0; None keeps that of the weights, for GGUF f16.
    source: the folder of the model. base: what its adapters were trained on, a folder or NAME@REVISION. DataError if
    the model cannot be exported so, the folder exists, or what was written answers differently.
    """
    if not writes_text(model):
        raise DataError(f"--format {to} is for models that write text token by token", "--format onnx")
    tokenizer = _tokenizer(model, source)
    prompts = _prompts(model, rows)
    with kept(target) as folder:
        if to == "gguf":
            precision = precision or "f16"
            path = folder / f"model-{precision}.gguf"
            gguf_file.write(model.model, tokenizer, path, precision, chat=_chats(model))
            engine = llama(path, max(len(prompt.ids) for prompt in prompts) + TOKENS)
        elif to == "adapter":
            path = _adapter(tokenizer, folder, source, base)
            engine = transformers(path, base)
        else:
            path = _safetensors(tokenizer, folder, source, precision)
            engine = transformers(path)
        tolerance = TOLERANCE[precision] if precision and to != "adapter" else SAME
        with engine as running:
            parity = _compare(model, prompts, running, path, tolerance)
        record([parity], folder)
    return parity


def _chats(model: Any) -> bool:
    return "messages" in model.reads


def _ends(model: Any) -> set[int]:
    """The tokens at which the predictor stops."""
    named = model.model.generation_config.eos_token_id
    own = stop(model.tokenizer) if _chats(model) else [end_of_turn(model.tokenizer)]
    return {*own, *([named] if isinstance(named, int) else named or [])}


def _tokenizer(model: Any, source: Path) -> Any:
    """The model's tokenizer, with the chat template of training: where that writes the date, it stands still."""
    tokenizer = inputs.tokenizer(source)
    if _chats(model) and not isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = template_of(tokenizer)
    return tokenizer


def _safetensors(tokenizer: Any, folder: Path, source: Path, precision: str | None) -> Path:
    """The folder that transformers, vLLM and TGI open: weights, configuration, tokenizer, chat template."""
    dtype = DTYPES[precision] if precision else "auto"
    copied = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True, **NO_CODE)
    set_ends(copied.generation_config, tokenizer)
    copied.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _adapter(tokenizer: Any, folder: Path, source: Path, base: str | Path) -> Path:
    """The folder that peft opens, and servers beside the base model."""
    if not (source / "adapter").is_dir():
        raise DataError(f"{source} has no adapters: it was not trained by a method of peft", "--format safetensors")
    shutil.copytree(source / "adapter", folder, dirs_exist_ok=True)
    name, revision = located(base)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": name, "revision": revision, "task_type": "CAUSAL_LM"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def _prompts(model: Any, rows: list[Row]) -> list[Prompt]:
    """The prompts of the first rows that leave room for TOKENS."""
    limit, column = model.inference_config["length"] - TOKENS, "messages" if _chats(model) else "text"
    if rows and column not in rows[0]:
        raise DataError(f"the test rows have no column `{column}` to compare on", "pretune run prepare")
    prompts = (_prompt(model, row) for row in rows)
    found = list(islice((prompt for prompt in prompts if 0 < len(prompt.ids) <= limit), ROWS))
    if not found:
        raise DataError(
            f"no test row leaves room for {TOKENS} tokens within {model.inference_config['length']}",
            "raise finetune.sequence_length in params.yaml",
        )
    return found


def _prompt(model: Any, row: Row) -> Prompt:
    if not _chats(model):
        return Prompt(row, row["text"], token_ids(model.tokenizer, row["text"], chat=False))
    turns = row["messages"]
    asked = row | {"messages": turns[:-1] if turns[-1]["role"] == "assistant" else turns}
    if not asked["messages"]:
        return Prompt(row, "", [])
    text = render(model.tokenizer, asked["messages"], row.get("tools"), add_generation_prompt=True)
    return Prompt(asked, text, token_ids(model.tokenizer, text, chat=True))


def _compare(model: Any, prompts: list[Prompt], engine: Engine, path: Path, tolerance: float) -> Parity:
    """The original model reads what the exported one has written: log-probabilities, best tokens, texts."""
    reference, ends, chat = model.model.float(), _ends(model), _chats(model)
    differences, same, texts, rendered = [], [], [], []
    for number, prompt in enumerate(prompts, start=1):
        rendered.append(not chat or engine.render(prompt.row) == prompt.text)
        if engine.tokens(prompt.text, chat=chat) != prompt.ids:
            raise DataError(f"{path.name}: prompt {number} becomes other tokens than in training: it is not kept")
        steps = engine.complete(prompt.ids, TOKENS, TOP)
        tokens = [token for token, _ in steps]
        if ends & set(tokens[:-1]) or (len(tokens) < TOKENS and not ends & set(tokens[-1:])):
            raise DataError(f"{path.name}: it does not stop where the model stops: it is not kept")
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt.ids + tokens[:-1]])).logits[0, len(prompt.ids) - 1 :].float()
        differences.append(_difference(torch.log_softmax(logits, dim=-1), steps))
        best = (logits.argmax(dim=-1) == torch.tensor(tokens)).tolist()
        same += best
        texts.append(all(best))
    if not any(rendered):
        raise DataError(f"{path.name}: its chat template writes other prompts than in training: it is not kept")
    return Parity(
        file=path.name if path.suffix == ".gguf" else "model.safetensors",
        megabytes=megabytes(path),
        rows=len(prompts),
        difference=max(differences),
        agreement=sum(same) / len(same),
        tolerance=tolerance,
        texts=sum(texts) / len(texts),
        rendered=sum(rendered) / len(rendered) if chat else None,
    )


def _difference(expected: Tensor, steps: Steps) -> float:
    """The mean difference of the log-probabilities of likely tokens and of the best.

    expected: (steps, vocabulary), of the original.
    """
    differences = [
        abs(float(expected[place, token]) - value)
        for place, (best, likeliest) in enumerate(steps)
        for token, value in likeliest.items()
        if value >= LIKELY or token == best
    ]
    return sum(differences) / len(differences) if differences else 0.0
