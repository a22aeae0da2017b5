"""Classification: one label for each text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pretune.data.packing import Packed, pack
from pretune.data.rows import Row
from pretune.models import heads


@dataclass(frozen=True)
class LabelledBatch:
    """Texts one after the other; targets: (texts,) int64."""

    packed: Packed
    targets: Tensor

    @property
    def count(self) -> int:
        """Texts that the loss is summed over."""
        return len(self.targets)

    @property
    def tokens(self) -> int:
        """Tokens that are read."""
        return len(self.packed.input_ids)

    def to(self, device: torch.device) -> LabelledBatch:
        """The same on another device."""
        return LabelledBatch(self.packed.to(device), self.targets.to(device, non_blocking=True))


class Classification:
    """Batches and loss of the objective; texts are cut at `length` tokens."""

    def __init__(self, rows: list[Row], tokenizer: PreTrainedTokenizerBase, labels: list[str], *, length: int) -> None:
        texts = [row["text"] for row in rows]
        encoded = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
        self.texts = [np.array(ids, dtype=np.int64) for ids in encoded]
        self.targets = np.array([labels.index(row["label"]) for row in rows])

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> LabelledBatch:  # noqa: ARG002 - nothing is drawn
        """These rows, without padding."""
        texts = [self.texts[sample] for sample in samples]
        packed = pack(np.concatenate(texts), np.array([len(text) for text in texts]))
        return LabelledBatch(packed, torch.from_numpy(self.targets[samples]))

    def loss(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        """Sum of the cross entropies in nats over the texts."""
        return nn.functional.cross_entropy(self._logits(model, batch), batch.targets, reduction="sum")

    def score(self, model: PreTrainedModel, batch: LabelledBatch) -> dict[str, Tensor]:
        """Sums over the texts, for validation."""
        logits = self._logits(model, batch)
        return {
            "loss": nn.functional.cross_entropy(logits, batch.targets, reduction="sum"),
            "accuracy": (logits.argmax(dim=-1) == batch.targets).sum(),
        }

    @staticmethod
    def _logits(model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        return heads.classify(model, heads.states(model, batch.packed), batch.packed).float()


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int) -> dict[str, Tensor]:
    """Token ids and mask of `texts`, cut at `length` tokens, padded to the longest."""
    encoded = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int, rows: int = 100
) -> npt.NDArray[np.float32]:
    """Probability of each label for each text: (texts, labels)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), rows):
            logits = model(**encode(tokenizer, texts[start : start + rows], length)).logits
            parts.append(torch.softmax(logits.float(), dim=-1))
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)
