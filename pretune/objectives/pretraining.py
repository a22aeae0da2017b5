"""The objectives that `pretrain.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import Pretraining
from pretune.objectives.causal_lm import CausalLM
from pretune.objectives.masked_lm import MaskedLM

OBJECTIVES: dict[str, type[Pretraining]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
}
