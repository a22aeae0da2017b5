"""The headline: the metric that models are compared by, under the same names whatever the objective.

MLflow draws the charts of metrics called `headline/…` in a section of their own, above all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """Of reports/metrics.json: the headline of both models and the paired gain; empty where nothing was evaluated."""
    if "finetuned" not in results:
        return {}
    name = next(iter(results["finetuned"]))
    values = {
        "finetuned": results["finetuned"][name],
        "scratch": results.get("scratch", {}).get(name),
        "gain": results.get("gain", {}).get("scratch"),
    }
    return {f"headline/{key}": value["value"] for key, value in values.items() if value}
