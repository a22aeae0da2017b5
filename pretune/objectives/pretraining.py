"""The objectives that `pretrain.objective` may name."""

from __future__ import annotations

from pretune.objectives.base import Pretraining
from pretune.objectives.causal_lm import CausalLM
from pretune.objectives.denoising import Denoising
from pretune.objectives.masked_images import MaskedImages
from pretune.objectives.masked_lm import MaskedLM
from pretune.objectives.reconstruction import Reconstruction
from pretune.objectives.span_corruption import SpanCorruption

OBJECTIVES: dict[str, type[Pretraining]] = {
    "causal_lm": CausalLM,
    "denoising": Denoising,
    "masked_images": MaskedImages,
    "masked_lm": MaskedLM,
    "reconstruction": Reconstruction,
    "span_corruption": SpanCorruption,
}
