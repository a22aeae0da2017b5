"""Token classification: a tag for each word of a text. The first token of a word stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, PreTrainedModel

from pretune.data.packing import pack
from pretune.data.rows import Row
from pretune.errors import DataError
from pretune.models import heads
from pretune.objectives.base import Finetuning, Given
from pretune.objectives.predictions import Tags
from pretune.objectives.texts import class_scores, label_names
from pretune.objectives.tokens import TokenBatch
from pretune.predictor import words


class TokenClassification(Finetuning):
    """Softmax over the tags of each word, cross entropy in nats; words beyond `given.length` tokens do not train."""

    auto = AutoModelForTokenClassification
    columns = ("words", "tags")
    metrics = ("loss", "accuracy")
    answers = "tags"
    smooths = True

    def __init__(self, rows: Sequence[Row], given: Given) -> None:
        self.rows, self.given = rows, given
        if uneven := [place for place, row in enumerate(rows) if len(row["words"]) != len(row["tags"])]:
            raise DataError(f"{len(uneven)} rows have other numbers of words and tags; the first is row {uneven[0]}")
        self.texts = []
        self.places: list[npt.NDArray[np.int64]] = []
        self.targets: list[npt.NDArray[np.int64]] = []
        for row in rows:
            ids, firsts = words.encode(given.inputs, row["words"], given.length)
            self.texts.append(np.array(ids, dtype=np.int64))
            self.places.append(np.array([place for place, _ in firsts], dtype=np.int64))
            tags = [given.labels.index(row["tags"][word]) for _, word in firsts]
            self.targets.append(np.array(tags, dtype=np.int64))

    @classmethod
    def head(cls, labels: list[str]) -> dict[str, Any]:
        """See Kind."""
        return label_names(labels)

    @classmethod
    def example(cls, given: Given) -> Row:  # noqa: ARG003 - the same for all
        """See Kind."""
        return {"words": ["Return", "the", "absolute", "path"]}

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> TokenBatch:  # noqa: ARG002 - nothing is drawn
        """These rows, without padding."""
        texts = [self.texts[sample] for sample in samples]
        lengths = np.array([len(text) for text in texts])
        starts = np.cumsum(lengths) - lengths
        positions = np.concatenate([self.places[sample] + start for sample, start in zip(samples, starts, strict=True)])
        targets = np.concatenate([self.targets[sample] for sample in samples])
        packed = pack(np.concatenate(texts), lengths)
        return TokenBatch(packed, torch.from_numpy(positions), torch.from_numpy(targets))

    def loss(self, model: PreTrainedModel, batch: TokenBatch) -> Tensor:
        """The sum over the words."""
        return self._scores(model, batch, self.given.label_smoothing)["loss"]

    def score(self, model: PreTrainedModel, batch: TokenBatch) -> dict[str, Tensor]:
        """Sums over the words, for validation."""
        return self._scores(model, batch, 0.0)

    def _scores(self, model: PreTrainedModel, batch: TokenBatch, smoothing: float) -> dict[str, Tensor]:
        logits = heads.tag(model, batch.packed)[batch.positions]
        return class_scores(logits, batch.targets, smoothing)

    def predict(self, model: PreTrainedModel) -> Tags:
        """See Finetuning."""
        answers = words.Tags(model, self.given.inputs, self.facts(self.given))(self.rows)
        return Tags([list(row["tags"]) for row in self.rows], [answer["tags"] for answer in answers])
