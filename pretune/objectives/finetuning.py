"""The objectives that `finetune.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import Finetuning
from pretune.objectives.binary import Binary
from pretune.objectives.classification import Classification
from pretune.objectives.image_classification import ImageClassification
from pretune.objectives.instruction import Instruction
from pretune.objectives.language_modelling import LanguageModelling
from pretune.objectives.linear_regression import LinearRegression
from pretune.objectives.multi_label import MultiLabel
from pretune.objectives.question_answering import QuestionAnswering
from pretune.objectives.regression import Regression
from pretune.objectives.seq2seq import Seq2Seq
from pretune.objectives.token_classification import TokenClassification

OBJECTIVES: dict[str, type[Finetuning]] = {
    "binary": Binary,
    "classification": Classification,
    "image_classification": ImageClassification,
    "instruction": Instruction,
    "language_modelling": LanguageModelling,
    "linear_regression": LinearRegression,
    "multi_label": MultiLabel,
    "question_answering": QuestionAnswering,
    "regression": Regression,
    "seq2seq": Seq2Seq,
    "token_classification": TokenClassification,
}
