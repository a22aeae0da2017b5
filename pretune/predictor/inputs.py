"""The tokenizer saved with a model. Nothing is fetched, and no code from the folder is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OFFLINE = {"local_files_only": True, "trust_remote_code": False}
GENERAL = {"PreTrainedTokenizerFast", "TokenizersBackend"}


def tokenizer(folder: Path | str) -> Any:
    """The tokenizer as it was saved.

    AutoTokenizer would turn a general one into that of the model's type, which adds tokens of its own.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(folder) / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    tokenizer_class = PreTrainedTokenizerFast if config.get("tokenizer_class") in GENERAL else AutoTokenizer
    return tokenizer_class.from_pretrained(folder, **OFFLINE)
