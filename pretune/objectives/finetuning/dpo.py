"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290), and IPO (Azar et al. 2023)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from pretune.config.section import Positive
from pretune.objectives.finetuning.chat import ChatSettings
from pretune.objectives.finetuning.preferences import PairObjective


class Dpo(PairObjective):
    """The implicit reward of an answer is `beta` times its log-probability relative to the reference (eq. 5).

    The reference is the model that training starts from.
    """

    referenced = True

    class Settings(ChatSettings):
        """beta: how strongly the model is tied to the reference. label_smoothing: share of pairs that may be swapped.

        loss: sigmoid (eq. 7), or ipo, the squared distance of the mean log-ratios from 1 / (2 beta), which is then
        the tau of Azar et al. 2023, eq. 17.
        """

        beta: Positive
        label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
        loss: Literal["sigmoid", "ipo"]

    @override
    def preference(self, log_probs: Tensor, lengths: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        assert reference is not None
        settings = self.context.settings
        ratios = log_probs - reference
        margins = settings.beta * (ratios[0] - ratios[1])
        if settings.loss == "ipo":  # means over tokens, as its authors do (TRL's note on it)
            means = ratios / lengths
            return (means[0] - means[1] - 1 / (2 * settings.beta)) ** 2, margins
        smoothing = settings.label_smoothing
        losses = -(1 - smoothing) * functional.logsigmoid(margins) - smoothing * functional.logsigmoid(-margins)
        return losses, margins
