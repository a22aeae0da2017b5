"""Metrics of rankings: how near the top are the texts that belong to a query."""

from __future__ import annotations

import numpy as np

from pretune.evaluation.metrics import statistics
from pretune.evaluation.metrics.bootstrap import Metric
from pretune.objectives.predictions import Rankings

DEPTH = 10  # places that count


def rankings(predictions: Rankings) -> dict[str, Metric]:
    """NDCG (Järvelin & Kekäläinen 2002), MRR and recall at DEPTH, and how often the first is right.

    A text either belongs or does not: its gain is 1 or 0.
    """
    ranks = predictions.ranks
    first = np.array([row[0] for row in ranks], dtype=np.float64)
    found = np.array([sum(rank <= DEPTH for rank in row) for row in ranks])
    return {
        "ndcg": Metric(statistics.mean([_ndcg(row) for row in ranks])),
        "mrr": Metric(statistics.mean(np.where(first <= DEPTH, 1 / first, 0.0))),
        "recall": Metric(statistics.ratio(found, [min(len(row), DEPTH) for row in ranks])),
        "accuracy": Metric(statistics.mean(first == 1)),
    }


def _ndcg(ranks: list[int]) -> float:
    """The discounted gain of these places, by that of the best order; ascending from 1."""
    best = sum(1 / np.log2(1 + place) for place in range(1, min(len(ranks), DEPTH) + 1))
    return float(sum(1 / np.log2(1 + rank) for rank in ranks if rank <= DEPTH) / best)
