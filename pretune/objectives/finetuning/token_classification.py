"""Token classification: a tag for each word of a text, predicted at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedModel
from typing_extensions import override

from pretune.data.loading.varlen import pack
from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.models import heads
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.finetuning.classes import class_metrics, label_names
from pretune.objectives.predictions import Tags
from pretune.objectives.requirements import COLUMNS
from pretune.objectives.tokens import TokenBatch
from pretune.predictor import words


class TokenClassification(FinetuningObjective):
    """Softmax over the tags of each word, cross entropy in nats. Words beyond `context.length` tokens are left out."""

    auto = AutoModelForTokenClassification
    columns = COLUMNS["token_classification"]
    metrics = ("loss", "accuracy")
    answers = "tags"
    smooths = True

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        if uneven := [number for number, row in enumerate(rows) if len(row["words"]) != len(row["tags"])]:
            raise DataError(
                f"{len(uneven)} rows have different numbers of words and tags; the first is row {uneven[0]}"
            )
        self.texts = []
        self.positions: list[npt.NDArray[np.int64]] = []
        self.targets: list[npt.NDArray[np.int64]] = []
        for row in rows:
            ids, firsts = words.encode(context.inputs, row["words"], context.length)
            self.texts.append(np.array(ids, dtype=np.int64))
            self.positions.append(np.array([position for position, _ in firsts], dtype=np.int64))
            tags = [context.labels.index(row["tags"][word]) for _, word in firsts]
            self.targets.append(np.array(tags, dtype=np.int64))

    @classmethod
    @override
    def head(cls, labels: list[str]) -> dict[str, Any]:
        return label_names(labels)

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        return {"words": ["Return", "the", "absolute", "path"]}

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - no random draws
        """These rows, without padding."""
        texts = [self.texts[sample] for sample in samples]
        lengths = np.array([len(text) for text in texts])
        starts = np.cumsum(lengths) - lengths
        positions = np.concatenate(
            [self.positions[sample] + start for sample, start in zip(samples, starts, strict=True)]
        )
        targets = np.concatenate([self.targets[sample] for sample in samples])
        packed = pack(np.concatenate(texts), lengths)
        return TokenBatch(packed, torch.from_numpy(positions), torch.from_numpy(targets))

    def loss(self, model: PreTrainedModel, batch: TokenBatch) -> Tensor:
        """The sum over the words."""
        return self._metrics(model, batch, self.context.label_smoothing)["loss"]

    def score(self, model: PreTrainedModel, batch: TokenBatch) -> dict[str, Tensor]:
        """Sums over the words, for validation."""
        return self._metrics(model, batch, 0.0)

    def _metrics(self, model: PreTrainedModel, batch: TokenBatch, smoothing: float) -> dict[str, Tensor]:
        logits = heads.tag(model, batch.packed)[batch.positions]
        return class_metrics(logits, batch.targets, smoothing)

    @override
    def predict(self, model: PreTrainedModel) -> Tags:
        predicted = words.Tags(model, self.context.inputs, self.inference_config(self.context))(self.rows)
        return Tags([list(row["tags"]) for row in self.rows], [row["tags"] for row in predicted])
