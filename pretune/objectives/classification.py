"""Classification: one label for each text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pretune.data.documents import Document


@dataclass(frozen=True)
class LabelledBatch:
    """input_ids, attention_mask: (rows, longest); targets: (rows,) int64."""

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor


class Classification:
    """Batches and loss of the objective; a batch is a pure function of (seed, step)."""

    def __init__(
        self,
        documents: list[Document],
        tokenizer: PreTrainedTokenizerBase,
        labels: list[str],
        *,
        rows: int,
        length: int,
        seed: int,
    ) -> None:
        self.tokenizer, self.rows, self.length, self.seed = tokenizer, rows, length, seed
        self.texts = [document.text for document in documents]
        self.targets = np.array([labels.index(str(document.label)) for document in documents])

    @property
    def steps_per_epoch(self) -> int:
        """Every row once; the last batch may be smaller."""
        return -(-len(self.texts) // self.rows)

    def batch(self, step: int) -> LabelledBatch:
        """The rows of one step, in a new order each epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.texts))
        return self._encode(order[place * self.rows : (place + 1) * self.rows])

    def loss(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        """Mean cross entropy in nats per text."""
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return nn.functional.cross_entropy(logits.float(), batch.targets)

    def _encode(self, rows: npt.NDArray[np.int64]) -> LabelledBatch:
        encoded = encode(self.tokenizer, [self.texts[row] for row in rows], self.length)
        return LabelledBatch(encoded["input_ids"], encoded["attention_mask"], torch.from_numpy(self.targets[rows]))


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
