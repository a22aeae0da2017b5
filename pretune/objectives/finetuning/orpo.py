"""Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691): finetuning and preferences in one stage."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from pretune.config.section import Positive
from pretune.objectives.finetuning.chat import ChatSettings
from pretune.objectives.finetuning.preferences import PairObjective


class Orpo(PairObjective):
    """Cross entropy of the chosen answer, plus `beta` times that of its odds against the rejected one (eq. 6).

    Likelihoods are per token (eq. 1): log P = mean of the log-probabilities of the answer's tokens.
    """

    class Settings(ChatSettings):
        """beta: weight of the odds ratio (lambda in the paper)."""

        beta: Positive

    @override
    def preference(self, log_probs: Tensor, lengths: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        chosen, rejected = log_probs / lengths
        log_odds = (chosen - _log1mexp(chosen)) - (rejected - _log1mexp(rejected))  # eq. 3 and 4
        return -chosen - self.context.settings.beta * functional.logsigmoid(log_odds), chosen - rejected


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 - exp(values)) of negative values, exact at both ends (Mächler 2012)."""
    values = values.clamp(max=-1e-7)
    return torch.where(values > -0.693, torch.log(-torch.expm1(values)), torch.log1p(-torch.exp(values)))
