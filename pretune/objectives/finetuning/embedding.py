"""Embeddings of texts, learnt by contrast: a text lies nearer to its pair than to the pairs of other texts.

InfoNCE with in-batch negatives (van den Oord et al. 2018; Henderson et al. 2017), hard negatives (Karpukhin et al.
2020), and vectors whose beginnings are embeddings too (Matryoshka representations, Kusupati et al. 2022).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForMaskedLM, PreTrainedModel
from typing_extensions import override

from pretune.config.section import Section
from pretune.data.loading.batch import Movable
from pretune.data.loading.varlen import Packed, pack
from pretune.data.rows import Row
from pretune.errors import ParamsError
from pretune.models import build, heads
from pretune.models.encoder import TextEncoder
from pretune.objectives.base import FinetuningObjective, ObjectiveContext
from pretune.objectives.predictions import Rankings
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.requirements import COLUMNS
from pretune.predictor.embedding import Vector


@dataclass(frozen=True)
class PairBatch(Movable):
    """Packed sequences: first the texts, one for each row, then the candidates among which each has its pair.

    own: (rows,) int64, the candidate that belongs to each text.
    hidden: (rows, candidates) bool, other candidates that belong to it as well and are no negatives.
    """

    packed: Packed
    own: Tensor
    hidden: Tensor

    @property
    def count(self) -> int:
        """Texts that the loss is summed over."""
        return len(self.own)

    @property
    def tokens(self) -> int:
        """Input tokens."""
        return len(self.packed.input_ids)


class Embedding(FinetuningObjective):
    """Cross entropy of each text's pair among all candidates of its batch, by cosine similarity over `temperature`."""

    auto = TextEncoder
    columns = COLUMNS["embedding"]
    metrics = ("loss", "accuracy")
    answers = "vector"
    answers_untrained = True
    whole_batch = True

    class Settings(Section):
        """temperature: divisor of the similarities. pooling: which of a text's states make its vector.

        mined_negatives: for each text, so many of the training pairs that look most like its own by TF-IDF.
        dimensions: beginnings of the vector that are trained as embeddings too, as [64, 32]; [] for none.
        """

        temperature: Annotated[float, Field(gt=0)]
        pooling: Literal["mean", "first", "last"]
        mined_negatives: Annotated[int, Field(ge=0)]
        dimensions: list[Annotated[int, Field(ge=1)]]

    def __init__(self, rows: Sequence[Row], context: ObjectiveContext) -> None:
        self.rows, self.context = rows, context
        self._belong: dict[str, set[str]] = defaultdict(set)  # pairs of each text, in any row
        for row in rows:
            self._belong[row["text"]].add(row["pair"])
        texts = {row["text"] for row in rows} | {row["pair"] for row in rows}
        texts.update(text for row in rows for text in row.get("negatives", ()))
        ordered = sorted(texts)
        limit = {"truncation": True, "max_length": context.length}
        encoded = context.inputs(ordered, **limit)["input_ids"] if ordered else []
        self._ids = {text: np.array(ids, dtype=np.int64) for text, ids in zip(ordered, encoded, strict=True)}
        self._mined: list[list[str]] | None = None

    @classmethod
    def families(cls) -> list[str]:
        """Encoders, and decoders."""
        return sorted({*CausalLM.families(), *build.families(AutoModelForMaskedLM)} & build.families(cls.auto))

    @classmethod
    @override
    def inference_config(cls, context: ObjectiveContext) -> dict[str, Any]:
        return super().inference_config(context) | {"pooling": context.settings.pooling}

    @override
    def files(self, model: PreTrainedModel) -> dict[str, Any]:
        """Those of sentence-transformers: its three modules embed a text as the predictor does."""
        modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        mode = {"mean": "mean_tokens", "first": "cls_token", "last": "lasttoken"}
        pooling = {f"pooling_mode_{name}": self.context.settings.pooling == ours for ours, name in mode.items()}
        return {
            "modules.json": [
                {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
                for number, (path, name) in enumerate(modules)
            ],
            "sentence_bert_config.json": {"max_seq_length": self.context.length, "do_lower_case": False},
            "1_Pooling/config.json": {"word_embedding_dimension": model.config.hidden_size, **pooling},
        }

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, epochs: npt.NDArray[np.int64], samples: npt.NDArray[np.int64]) -> PairBatch:
        """These rows: their texts, their pairs, and in each epoch one more negative of each row that has any."""
        rows = [self.rows[sample] for sample in samples]
        texts = [row["text"] for row in rows]
        others = [self._negatives(int(sample)) for sample in samples]
        negatives = [some[epoch % len(some)] for some, epoch in zip(others, epochs.tolist(), strict=True) if some]
        candidates = list(dict.fromkeys([*(row["pair"] for row in rows), *negatives]))
        places = {text: number for number, text in enumerate(candidates)}
        own = np.array([places[row["pair"]] for row in rows])
        hidden = np.array([[other in self._belong[text] or other == text for other in candidates] for text in texts])
        hidden[np.arange(len(rows)), own] = False
        ids = [self._ids[text] for text in (*texts, *candidates)]
        packed = pack(np.concatenate(ids), np.array([len(one) for one in ids]))
        return PairBatch(packed, torch.from_numpy(own), torch.from_numpy(hidden))

    def loss(self, model: PreTrainedModel, batch: PairBatch) -> Tensor:
        """The sum over the texts, in nats: the mean of those of the whole vector and of its `dimensions`."""
        vectors = heads.embed(model, batch.packed, self.context.settings.pooling)
        sizes = [vectors.shape[1], *self.context.settings.dimensions]
        if max(sizes) > vectors.shape[1]:
            raise ParamsError(
                f"finetune.settings.dimensions: {max(sizes)}, but the model's vectors have {vectors.shape[1]} numbers",
                "lower it in params.yaml, then run again",
            )
        losses = [
            functional.cross_entropy(self._similarities(vectors[:, :size], batch), batch.own, reduction="sum")
            for size in sizes
        ]
        return torch.stack(losses).mean()

    def score(self, model: PreTrainedModel, batch: PairBatch) -> dict[str, Tensor]:
        """Sums over the texts; accuracy counts those whose nearest candidate of the batch is their own."""
        vectors = heads.embed(model, batch.packed, self.context.settings.pooling)
        nearest = self._similarities(vectors, batch).argmax(dim=1)
        return {"loss": self.loss(model, batch), "accuracy": (nearest == batch.own).sum()}

    def predict(self, model: PreTrainedModel) -> Rankings:
        """For each text all pairs and negatives of these rows, by their similarity to it."""
        predictor = Vector(model, self.context.inputs, self.inference_config(self.context))
        pool = sorted({row["pair"] for row in self.rows} | {n for row in self.rows for n in row.get("negatives", ())})
        texts = [row["text"] for row in self.rows]
        return rank(texts, self._belong, pool, (predictor.vectors(texts) @ predictor.vectors(pool).T).numpy())

    def _similarities(self, vectors: Tensor, batch: PairBatch) -> Tensor:
        """Of each text to each candidate, over the temperature: (rows, candidates) float32."""
        unit = functional.normalize(vectors, dim=-1)
        texts, candidates = unit[: batch.count], unit[batch.count :]
        similarities = texts @ candidates.T / self.context.settings.temperature
        masked: Tensor = similarities.masked_fill(batch.hidden, float("-inf"))
        return masked

    def _negatives(self, sample: int) -> list[str]:
        """The negatives of a row: its own, and the mined ones."""
        given = list(self.rows[sample].get("negatives", ()))
        if not self.context.settings.mined_negatives:
            return given
        if self._mined is None:
            self._mined = self._mine(self.context.settings.mined_negatives)
        return given + self._mined[sample]

    def _mine(self, count: int) -> list[list[str]]:
        """For each row the pairs of other texts that look most like its text; none that belongs to it."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        pool = sorted({row["pair"] for row in self.rows})
        vectorizer = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 4)).fit(pool)
        library = vectorizer.transform(pool).T
        mined = []
        for row in self.rows:
            similar = (vectorizer.transform([row["text"]]) @ library).toarray()[0]
            names = (pool[place] for place in np.argsort(-similar, kind="stable"))
            belong = self._belong[row["text"]]
            mined.append([name for name, _ in zip((n for n in names if n not in belong), range(count), strict=False)])
        return mined


def rank(
    texts: Sequence[str], belong: dict[str, set[str]], pool: Sequence[str], similarities: npt.NDArray[Any]
) -> Rankings:
    """Rankings of the `pool` for each text. belong: the members of the pool that each text looks for.

    similarities: (texts, pool). Of equally similar ones those that do not belong come first: a model that gives
    everything the same vector finds nothing.
    """
    places = {text: number for number, text in enumerate(pool)}
    targets, predicted, ranks = [], [], []
    for text, similar in zip(texts, similarities, strict=True):
        own = sorted(belong[text])
        is_own = np.zeros(len(pool), dtype=bool)
        is_own[[places[one] for one in own]] = True
        order = np.lexsort([is_own, -similar])
        targets.append(own)
        predicted.append(pool[order[0]])
        ranks.append((np.flatnonzero(is_own[order]) + 1).tolist())
    return Rankings(targets, predicted, ranks)
