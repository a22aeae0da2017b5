"""Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734): no reference model."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from pretune.config.section import NonNegative, Positive
from pretune.objectives.finetuning.chat import ChatSettings
from pretune.objectives.finetuning.preferences import PairObjective


class Simpo(PairObjective):
    """The reward of an answer is `beta` times its mean log-probability; the chosen one leads by `gamma` (eq. 6)."""

    class Settings(ChatSettings):
        """beta: scale of the reward. gamma: the target margin between the rewards."""

        beta: Positive
        gamma: NonNegative

    @override
    def preference(self, log_probs: Tensor, lengths: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        settings = self.context.settings
        chosen, rejected = settings.beta * log_probs / lengths
        margins = chosen - rejected
        return -functional.logsigmoid(margins - settings.gamma), margins
