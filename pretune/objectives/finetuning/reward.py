"""A reward model: one number for each conversation, larger for the better answer (Bradley and Terry 1952)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.rows import Row
from pretune.models import heads
from pretune.objectives.base import ObjectiveContext
from pretune.objectives.finetuning.preferences import PairBatch, Paired, answer_texts, pair_batch
from pretune.objectives.predictions import Preferences
from pretune.predictor import chat


class Reward(Paired):
    """P(chosen is better) = sigmoid(reward of chosen - reward of rejected), as in Ouyang et al. 2022, eq. 1."""

    auto = AutoModelForSequenceClassification
    answers = "reward"

    class Settings(Section):
        """template: in Jinja, null for the tokenizer's own."""

        template: str | None

    @classmethod
    @override
    def head(cls, labels: list[str]) -> dict[str, Any]:
        return {"problem_type": "regression", "id2label": {0: "reward"}, "label2id": {"reward": 0}}

    @classmethod
    @override
    def example(cls, context: ObjectiveContext) -> Row:
        turns = ("user", "What is the capital of France?"), ("assistant", "Paris")
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> PairBatch:  # noqa: ARG002 - no random draws
        """These pairs."""
        rows = [self.kept[sample] for sample in samples]
        return pair_batch([self.pairs[row] for row in rows])

    def loss(self, model: PreTrainedModel, batch: PairBatch) -> Tensor:
        """The sum over the pairs."""
        return self.score(model, batch)["loss"]

    def score(self, model: PreTrainedModel, batch: PairBatch) -> dict[str, Tensor]:
        """Sums over the pairs; accuracy: whether the chosen answer has the larger reward."""
        chosen, rejected = heads.classify(model, batch.packed)[:, 0].view(2, -1)
        margins = chosen - rejected
        return {"loss": -functional.logsigmoid(margins).sum(), "accuracy": (margins > 0).sum()}

    def predict(self, model: PreTrainedModel) -> Preferences:
        """The rewards of both answers of each row."""
        score = chat.Reward(model, self.context.inputs, self.inference_config(self.context))
        chosen, rejected = (
            score.logits([row | {"messages": row["messages"] + row[name]} for row in self.rows])[:, 0].numpy()
            for name in ("chosen", "rejected")
        )
        return Preferences(answer_texts(self.rows), chosen, rejected, [None] * len(self.rows))
