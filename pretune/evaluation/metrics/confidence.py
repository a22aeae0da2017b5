"""The effect of temperature scaling (objectives/finetuning/calibration.py) on metrics; scaling for the baselines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pretune.evaluation.metrics import compute
from pretune.evaluation.metrics.bootstrap import Bootstrap
from pretune.objectives.finetuning import calibration
from pretune.objectives.predictions import Classes, Floats, ManyLabels

Probabilistic = TypeVar("Probabilistic", bound=Classes | ManyLabels)
METRICS = ("log_loss", "brier", "calibration_error")  # of confidence
SMALLEST = float(np.finfo(np.float32).tiny)


def raise_to_power(predictions: Probabilistic, power: float) -> Probabilistic:
    """The probabilities to a power, normalised: what logits times `power` give."""
    p = np.clip(predictions.probabilities.astype(np.float64), SMALLEST, 1.0)
    powers = p**power
    total = powers.sum(axis=1, keepdims=True) if isinstance(predictions, Classes) else powers + (1 - p) ** power
    return replace(predictions, probabilities=(powers / total).astype(np.float32))


def evaluate_calibration(predictions: Classes | ManyLabels, temperature: float, bootstrap: Bootstrap) -> dict[str, Any]:
    """The temperature, and METRICS without and with it; all are better when they are lower.

    predictions: with the temperature.
    """
    result: dict[str, Any] = {"temperature": temperature}
    for name, version in (("before", raise_to_power(predictions, temperature)), ("after", predictions)):
        measures = {key: metric.measure for key, metric in compute.metrics(version).items() if key in METRICS}
        result[name] = {key: estimate.as_dict() for key, estimate in bootstrap.estimates(measures).items()}
    return result


def calibrate(predictions: Probabilistic, held_out: Floats, targets: npt.NDArray[Any]) -> Probabilistic:
    """The predictions of a simple model, with a temperature that is fitted to held-out rows.

    held_out: (rows, classes), the model's probabilities; targets: (rows,) int64, or (rows, classes) bool.
    """
    p = torch.from_numpy(held_out.astype(np.float64)).clip(SMALLEST, 1 - 1e-7)
    if isinstance(predictions, Classes):
        temperature = calibration.temperature(p.log(), torch.from_numpy(targets), functional.cross_entropy)
    else:
        true = torch.from_numpy(targets.astype(np.float64))
        temperature = calibration.temperature(p.logit(), true, functional.binary_cross_entropy_with_logits)
    return raise_to_power(predictions, 1 / temperature)
