"""Metrics of judged answers, and how often one model answers better than another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Bootstrap, Metric
from pretune.objectives.predictions import Judgements, Predictions, Preferences

Column = npt.NDArray[np.float64]  # (rows,)


def preferences(predictions: Preferences) -> dict[str, Metric]:
    """How often and by how much a model prefers the answer that people prefer.

    accuracy: share of pairs in which the preferred answer has the higher score; equal scores count half. margin: mean
    difference of the scores. closeness: mean difference of the chrF of the model's own answer to the preferred answer
    and to the other one; only where the model answers.
    """
    margins = predictions.chosen.astype(np.float64) - predictions.rejected
    metrics = {"accuracy": Metric(statistics.mean(_wins(margins))), "margin": Metric(statistics.mean(margins))}
    if writes(predictions):
        metrics["closeness"] = Metric(statistics.mean(closeness(predictions)))
    return metrics


def judgements(predictions: Judgements) -> dict[str, Metric]:
    """roc_auc: how often a good answer is likelier per token than a bad one, over all such pairs of rows."""
    return {"roc_auc": Metric(statistics.roc_auc(predictions.targets, predictions.log_probs.astype(np.float64)))}


def win_rates(predictions: Mapping[str, Predictions], bootstrap: Bootstrap) -> dict[str, Any]:
    """{other: share of prompts that the first model answers better than the other one}, ties counting half.

    The judge is `closeness`; the models answer the same prompts, and the interval is over prompts.
    """
    answering = {name: model for name, model in predictions.items() if isinstance(model, Preferences) and writes(model)}
    scores = {name: closeness(model) for name, model in answering.items()}
    first = next(iter(predictions), "")
    if first not in scores:
        return {}
    shares = {name: statistics.mean(_wins(scores[first] - score)) for name, score in scores.items() if name != first}
    return {name: estimate.as_dict() for name, estimate in bootstrap.estimates(shares).items()}


def writes(predictions: Preferences) -> bool:
    """Whether the model writes answers."""
    return None not in predictions.replies


def closeness(predictions: Preferences) -> Column:
    """For each prompt chrF(reply, preferred answer) - chrF(reply, other answer): (rows,), from -100 to 100."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    return np.array([
        chrf.sentence_score(reply or "", [preferred]).score - chrf.sentence_score(reply or "", [other]).score
        for reply, (preferred, other) in zip(predictions.replies, predictions.targets, strict=True)
    ])  # fmt: skip


def _wins(differences: Column) -> Column:
    """1 where positive, 0.5 where zero: (rows,)."""
    return (np.sign(differences) + 1) / 2
