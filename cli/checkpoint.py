"""`pretune init … --model`: the settings of a recipe or a proposal for a model that starts from a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pretune.config.params import WHOLE, Params
from pretune.errors import DataError

RATE = 2e-5  # usual for these (Devlin et al. 2019), instead of one for random weights
SETTINGS: dict[str, dict[str, Any]] = {  # of the pretraining objectives, where the recipe's is for another family
    "masked_lm": {"mask_rate": 0.15, "whole_words": False},
    "causal_lm": {},
    "span_corruption": {"mask_rate": 0.15, "span_length": 3},
    "denoising": {"mask_rate": 0.3, "span_length": 3, "permute_sentences": False},
    "masked_images": {"mask_rate": 0.6, "square": 7},
}
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model",
)  # fmt: skip


def place(root: Path, here: Path, given: str) -> str:
    """`given` as params.yaml names it: NAME@REVISION, or a folder, which is relative if it is in the workspace.

    Raises DataError if there is no such folder.
    """
    folder = Path(here, given).expanduser().resolve()
    if not folder.is_dir():
        if re.fullmatch(r"[\w.\-]+(/[\w.\-]+)?@[^/]*", given):
            return given
        raise DataError(
            f"--model {given}: no such folder",
            "name a folder in transformers' format, or NAME@REVISION of the hub, the revision as 40 hexadecimal digits",
        )
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def settings(root: Path, params: Params, init: str) -> dict[str, Any]:
    """{SECTION.KEY: value} of what follows from the checkpoint. DataError or ParamsError if there is none."""
    from pretune.models import build
    from pretune.objectives.pretraining.table import OBJECTIVES

    source = build.source(params.model.model_copy(update={"init": init}), root.joinpath)
    assert source is not None
    config = build.configuration(source)
    chosen: dict[str, Any] = {"model.type": config.model_type, "model.init": init, "model.config": {}}
    if tokenizer := _tokenizer(root, source, init):
        chosen["prepare.tokenizer"] = tokenizer
    if params.model.init is None or not params.pretrain.steps:  # a recipe may go on with pretraining
        chosen |= {"pretrain.steps": 0, "pretrain.evaluate_every": 0, "pretrain.validation_rows": 0}
        chosen |= {"pretrain.metric_for_best_model": "last", "pretrain.patience": 0}
    suited = [name for name in SETTINGS if config.model_type in OBJECTIVES[name].families()]
    if suited and params.pretrain.objective not in suited:
        chosen |= {"pretrain.objective": suited[0], "pretrain.settings": SETTINGS[suited[0]]}
    return chosen | _training(params, config)


def _training(params: Params, config: Any) -> dict[str, Any]:
    """Lengths that the checkpoint can read; where the recipe is for random weights, how to finetune those of one."""
    chosen: dict[str, Any] = {}
    if longest := getattr(config, "max_position_embeddings", None):
        lengths = {"prepare.max_length": params.prepare.max_length}
        lengths |= {
            f"{name}.sequence_length": getattr(params, name).sequence_length for name in ("pretrain", "finetune")
        }
        chosen |= {key: longest for key, length in lengths.items() if length > longest}
    if params.model.init is not None:
        return chosen
    chosen |= {"finetune.precision": "auto", "finetune.optimizer": "adamw", "finetune.ema_decay": 0.0}
    if params.align:
        chosen["align.precision"] = "auto"
    if params.adaptation.method in WHOLE:
        chosen["finetune.learning_rate"] = min(RATE, params.finetune.learning_rate)
    return chosen


def _tokenizer(root: Path, source: Path | str, init: str) -> str | None:
    """The folder with the tokenizer of the checkpoint, that of one of the hub as a copy; None if it has none."""
    from pretune.models import build, weights

    if isinstance(source, Path):
        return init if any((source / name).is_file() for name in TOKENIZER) else None
    found = [path for name in TOKENIZER if (path := weights.find(build.location(source), name))]
    if not found:
        return None
    folder = root / "checkpoints" / init.partition("@")[0].replace("/", "--")
    folder.mkdir(parents=True, exist_ok=True)
    for path in found:
        weights.copy(path, folder / path.name)
    return str(folder.relative_to(root))
