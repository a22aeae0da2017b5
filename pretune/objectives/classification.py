"""Classification: one of several classes for each text, or for each pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pretune.data.packing import Packed, pack
from pretune.data.rows import Row
from pretune.models import heads
from pretune.objectives.base import Finetuning, Given
from pretune.objectives.predictions import Classes
from pretune.predictor import text


@dataclass(frozen=True)
class LabelledBatch:
    """Texts one after the other; targets: (texts,) int64 or (texts, numbers) float32."""

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


class Classification(Finetuning):
    """Batches and loss of the objective; texts are cut at `given.length` tokens."""

    auto = AutoModelForSequenceClassification
    columns = ("text", "label")
    metrics = ("loss", "accuracy")
    answers = "class"

    def __init__(self, rows: Sequence[Row], given: Given) -> None:
        self.rows, self.given = rows, given
        self.texts, self.types = encode(rows, given)
        self.targets = torch.tensor([given.labels.index(row["label"]) for row in rows])

    @classmethod
    def of(cls, rows: Sequence[Row], given: Given) -> Self:
        """See Finetuning."""
        return cls(rows, given)

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:
        """See Kind."""
        return {"problem_type": "single_label_classification"} | label_names(labels)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> LabelledBatch:  # noqa: ARG002 - nothing is drawn
        """These rows, without padding."""
        return LabelledBatch(together(self.texts, self.types, samples), self.targets[samples])

    def loss(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        """Sum of the cross entropies in nats over the texts."""
        return nn.functional.cross_entropy(heads.classify(model, batch.packed), batch.targets, reduction="sum")

    def score(self, model: PreTrainedModel, batch: LabelledBatch) -> dict[str, Tensor]:
        """Sums over the texts, for validation."""
        logits = heads.classify(model, batch.packed)
        return {
            "loss": nn.functional.cross_entropy(logits, batch.targets, reduction="sum"),
            "accuracy": (logits.argmax(dim=-1) == batch.targets).sum(),
        }

    def predict(self, model: PreTrainedModel) -> Classes:
        """See Finetuning."""
        found = text.Class(model, self.given.inputs, self.facts(self.given)).probabilities(self.rows)
        return Classes(self.given.labels, self.targets.numpy(), found.numpy())


def encode(rows: Sequence[Row], given: Given) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]] | None]:
    """Token ids of each text, or text and pair; and which of the two each token is of, None where there is one."""
    texts = [row["text"] for row in rows]
    pairs = [row["pair"] for row in rows] if rows and "pair" in rows[0] else None
    encoded = given.inputs(texts, pairs, truncation=True, max_length=given.length)
    ids, types = ([np.array(each) for each in encoded.get(name, [])] for name in ("input_ids", "token_type_ids"))
    return ids, types if any(each.any() for each in types) else None


def together(
    texts: list[npt.NDArray[np.int64]], types: list[npt.NDArray[np.int64]] | None, samples: npt.NDArray[np.int64]
) -> Packed:
    """These texts, packed."""
    chosen = [texts[sample] for sample in samples]
    lengths = np.array([len(each) for each in chosen])
    return pack(
        np.concatenate(chosen), lengths, np.concatenate([types[sample] for sample in samples]) if types else None
    )


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """The keys of a configuration that name its labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}
