"""The objectives that `finetune.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import Finetuning
from pretune.objectives.classification import Classification

OBJECTIVES: dict[str, type[Finetuning]] = {
    "classification": Classification,
}
