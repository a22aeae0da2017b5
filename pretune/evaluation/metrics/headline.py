"""The headline: the metric that models are compared by, under the same names whatever the objective.

MLflow draws the charts of metrics called `headline/…` in a section of their own, above all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretune.evaluation import names


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """Of reports/metrics.json: the headline of the evaluated model, which is called `finetuned` here, and its gain.

    The gain is over the model from scratch, or else the checkpoint as it came, whose headlines are there too. Empty
    where nothing was evaluated.
    """
    model = names.evaluated(results)
    if not model:
        return {}
    metric = next(iter(results[model]))
    values = {
        "finetuned": results[model][metric],
        **{name: results.get(name, {}).get(metric) for name, _ in names.brought(results)},
        "gain": next((results["gain"][name] for name, _ in names.brought(results)), None),
    }
    return {f"headline/{key}": value["value"] for key, value in values.items() if value}
