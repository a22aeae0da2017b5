"""Shared by the objectives with one prediction for each text, or for each pair of texts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pretune.data.loading.batch import Movable
from pretune.data.loading.varlen import Packed, pack
from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.models import heads
from pretune.objectives.base import FinetuningObjective, ObjectiveContext


@dataclass(frozen=True)
class LabelledBatch(Movable):
    """Packed sequences; targets: (sequences,) int64, or (sequences, numbers) int64 or float32."""

    packed: Packed
    targets: Tensor

    @property
    def count(self) -> int:
        """Sequences that the loss is summed over."""
        return len(self.targets)

    @property
    def tokens(self) -> int:
        """Input tokens."""
        return len(self.packed.input_ids)


class TextObjective(FinetuningObjective):
    """Batches of texts, or of pairs if rows have a `pair`; cut at `context.length` tokens."""

    auto = AutoModelForSequenceClassification

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        self.texts, self.types = encode(rows, context)
        self.targets = self.encode_targets(rows)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> LabelledBatch:  # noqa: ARG002 - no random draws
        """These rows, without padding."""
        texts = [self.texts[sample] for sample in samples]
        types = np.concatenate([self.types[sample] for sample in samples]) if self.types else None
        packed = pack(np.concatenate(texts), np.array([len(ids) for ids in texts]), types)
        return LabelledBatch(packed, self.targets[samples])

    def loss(self, model: PreTrainedModel, batch: LabelledBatch) -> Tensor:
        """The sum over the texts."""
        logits = heads.classify(model, batch.packed)
        return self.compute_metrics(logits, batch.targets, self.context.label_smoothing)["loss"]

    def score(self, model: PreTrainedModel, batch: LabelledBatch) -> dict[str, Tensor]:
        """Sums over the texts, for validation."""
        return self.compute_metrics(heads.classify(model, batch.packed), batch.targets)

    @abstractmethod
    def encode_targets(self, rows: Sequence[Row]) -> Tensor:
        """The targets of LabelledBatch."""

    @abstractmethod
    def compute_metrics(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
        """Sums over the texts, with the keys `metrics`. logits: (texts, outputs of the head) float32."""


def encode(
    rows: Sequence[Row], context: ObjectiveContext
) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]] | None]:
    """Token ids and token types of each row; types are None if all are 0.

    DataError if only some of the rows have a `pair`.
    """
    texts = [row["text"] for row in rows]
    with_pair = sum("pair" in row for row in rows)
    if 0 < with_pair < len(rows):
        raise DataError(f"{with_pair} of {len(rows)} rows have a `pair`; all or none must", "fix the data")
    pairs = [row["pair"] for row in rows] if with_pair else None
    limit = {"truncation": True, "max_length": context.length}
    encoded = context.inputs(texts, pairs, return_token_type_ids=with_pair > 0, **limit)
    ids, types = ([np.array(row) for row in encoded.get(name, [])] for name in ("input_ids", "token_type_ids"))
    return ids, types if any(row.any() for row in types) else None
