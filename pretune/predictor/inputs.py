"""The input pipeline that travels with a model, opened from its folder: nothing is fetched, no code from it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

OFFLINE = {"local_files_only": True, "trust_remote_code": False}
GENERAL = {"PreTrainedTokenizerFast", "TokenizersBackend"}


def tokenizer(folder: Path | str) -> Any:
    """The tokenizer as it was saved. AutoTokenizer would make one of the model's type of it, with tokens of its own."""
    path = Path(folder) / "tokenizer_config.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kind = PreTrainedTokenizerFast if known.get("tokenizer_class") in GENERAL else AutoTokenizer
    return kind.from_pretrained(folder, **OFFLINE)
