"""The objectives that `pretrain.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import PretrainingObjective
from pretune.objectives.pretraining.causal_lm import CausalLM
from pretune.objectives.pretraining.denoising import Denoising
from pretune.objectives.pretraining.masked_images import MaskedImages
from pretune.objectives.pretraining.masked_lm import MaskedLM
from pretune.objectives.pretraining.reconstruction import Reconstruction
from pretune.objectives.pretraining.span_corruption import SpanCorruption

OBJECTIVES: dict[str, type[PretrainingObjective]] = {
    "causal_lm": CausalLM,
    "denoising": Denoising,
    "masked_images": MaskedImages,
    "masked_lm": MaskedLM,
    "reconstruction": Reconstruction,
    "span_corruption": SpanCorruption,
}
