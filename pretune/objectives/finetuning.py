"""The objectives that `finetune.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import Finetuning
from pretune.objectives.classification import Classification
from pretune.objectives.image_classification import ImageClassification
from pretune.objectives.language_modelling import LanguageModelling
from pretune.objectives.linear_regression import LinearRegression
from pretune.objectives.question_answering import QuestionAnswering
from pretune.objectives.seq2seq import Seq2Seq

OBJECTIVES: dict[str, type[Finetuning]] = {
    "classification": Classification,
    "image_classification": ImageClassification,
    "language_modelling": LanguageModelling,
    "linear_regression": LinearRegression,
    "question_answering": QuestionAnswering,
    "seq2seq": Seq2Seq,
}
