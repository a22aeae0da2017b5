"""What MLflow calls to load a model that a stage made and to predict with it.

This one file travels with the model (its `code/` folder), so it imports nothing of Pretune.
Input: a table with a column `text`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

ROWS = 32  # per forward pass


class Predictor:
    """A tokenizer and a model; `predict` answers with one row per text."""

    def __init__(self, folder: str) -> None:
        options = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        head = (Path(folder) / "config.json").read_text(encoding="utf-8")
        self.classifies = "ForSequenceClassification" in head
        auto = AutoModelForSequenceClassification if self.classifies else AutoModelForMaskedLM
        self.model = auto.from_pretrained(folder, use_safetensors=True, **options).eval()
        self.length = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002 - MLflow passes it
        """`label` and `score` of a classifier; of a masked model, `text` with its [MASK] filled in."""
        texts = [str(text) for text in data["text"]]
        answer = self._classify if self.classifies else self._fill
        with torch.inference_mode():
            rows = [row for start in range(0, len(texts), ROWS) for row in answer(texts[start : start + ROWS])]
        return pd.DataFrame(rows, columns=["label" if self.classifies else "text", "score"])

    def _classify(self, texts: list[str]) -> list[tuple[str, float]]:
        scores, best = torch.softmax(self.model(**self._encode(texts)).logits.float(), dim=-1).max(dim=-1)
        names = self.model.config.id2label
        return [(names[int(index)], float(value)) for index, value in zip(best, scores, strict=True)]

    def _fill(self, texts: list[str]) -> list[tuple[str, float]]:
        batch = self._encode(texts)
        scores, best = torch.softmax(self.model(**batch).logits.float(), dim=-1).max(dim=-1)
        hidden = batch["input_ids"] == self.tokenizer.mask_token_id
        filled = torch.where(hidden, best, batch["input_ids"])
        decoded = self.tokenizer.batch_decode(filled, skip_special_tokens=True)
        return [
            (text, float(row[where].mean()) if where.any() else float("nan"))
            for text, row, where in zip(decoded, scores, hidden, strict=True)
        ]

    def _encode(self, texts: list[str]) -> Any:
        encoded = self.tokenizer(texts, truncation=True, max_length=self.length, padding=True, return_tensors="pt")
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def _load_pyfunc(path: str) -> Predictor:
    """The entry point that MLflow's `loader_module` asks for."""
    return Predictor(path)
