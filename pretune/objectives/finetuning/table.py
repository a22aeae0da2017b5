"""The objectives that `finetune.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import FinetuningObjective
from pretune.objectives.finetuning.binary import Binary
from pretune.objectives.finetuning.classification import Classification
from pretune.objectives.finetuning.distillation import Distillation
from pretune.objectives.finetuning.dpo import Dpo
from pretune.objectives.finetuning.embedding import Embedding
from pretune.objectives.finetuning.grpo import Grpo
from pretune.objectives.finetuning.image_classification import ImageClassification
from pretune.objectives.finetuning.instruction import Instruction
from pretune.objectives.finetuning.kto import Kto
from pretune.objectives.finetuning.language_modelling import LanguageModelling
from pretune.objectives.finetuning.linear_regression import LinearRegression
from pretune.objectives.finetuning.multi_label import MultiLabel
from pretune.objectives.finetuning.orpo import Orpo
from pretune.objectives.finetuning.question_answering import QuestionAnswering
from pretune.objectives.finetuning.regression import Regression
from pretune.objectives.finetuning.reward import Reward
from pretune.objectives.finetuning.seq2seq import Seq2Seq
from pretune.objectives.finetuning.simpo import Simpo
from pretune.objectives.finetuning.token_classification import TokenClassification

OBJECTIVES: dict[str, type[FinetuningObjective]] = {
    "binary": Binary,
    "classification": Classification,
    "distillation": Distillation,
    "dpo": Dpo,
    "embedding": Embedding,
    "grpo": Grpo,
    "image_classification": ImageClassification,
    "instruction": Instruction,
    "kto": Kto,
    "language_modelling": LanguageModelling,
    "linear_regression": LinearRegression,
    "multi_label": MultiLabel,
    "orpo": Orpo,
    "question_answering": QuestionAnswering,
    "regression": Regression,
    "reward": Reward,
    "seq2seq": Seq2Seq,
    "simpo": Simpo,
    "token_classification": TokenClassification,
}
