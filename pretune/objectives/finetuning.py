"""The objectives that `finetune.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import Finetuning
from pretune.objectives.binary import Binary
from pretune.objectives.classification import Classification
from pretune.objectives.instruction import Instruction
from pretune.objectives.multi_label import MultiLabel
from pretune.objectives.regression import Regression
from pretune.objectives.token_classification import TokenClassification

OBJECTIVES: dict[str, type[Finetuning]] = {
    "binary": Binary,
    "classification": Classification,
    "instruction": Instruction,
    "multi_label": MultiLabel,
    "regression": Regression,
    "token_classification": TokenClassification,
}
