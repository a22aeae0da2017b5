"""Confidence before and after temperature scaling (objectives/finetuning/calibration.py), and that of the baselines."""

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

Sure = TypeVar("Sure", bound=Classes | ManyLabels)
SHOWN = ("log_loss", "brier", "calibration_error")
SMALLEST = float(np.finfo(np.float32).tiny)


def powered(found: Sure, power: float) -> Sure:
    """Each probability to a power, by their sum: what logits times `power` lead to."""
    p = np.clip(found.probabilities.astype(np.float64), SMALLEST, 1.0)
    powers = p**power
    others = powers.sum(axis=1, keepdims=True) if isinstance(found, Classes) else powers + (1 - p) ** power
    return replace(found, probabilities=(powers / others).astype(np.float32))


def measured(found: Classes | ManyLabels, temperature: float, bootstrap: Bootstrap) -> dict[str, Any]:
    """The temperature, and those of SHOWN that there are, without it and with it; all are better when they are low."""
    result: dict[str, Any] = {"temperature": temperature}
    for name, said in (("before", powered(found, temperature)), ("after", found)):
        measures = {key: metric.measure for key, metric in compute.metrics(said).items() if key in SHOWN}
        result[name] = {key: each.as_dict() for key, each in bootstrap.estimates(measures).items()}
    return result


def fitted(found: Sure, held_out: Floats, targets: npt.NDArray[Any]) -> Sure:
    """The answers of a simple model with the temperature that fits what it says of rows held out.

    held_out: (rows, classes), its probabilities; targets: (rows,) int64, or (rows, classes) bool.
    """
    p = torch.from_numpy(held_out.astype(np.float64)).clip(SMALLEST, 1 - 1e-7)
    if isinstance(found, Classes):
        temperature = calibration.temperature(p.log(), torch.from_numpy(targets), functional.cross_entropy)
    else:
        aims = torch.from_numpy(targets.astype(np.float64))
        temperature = calibration.temperature(p.logit(), aims, functional.binary_cross_entropy_with_logits)
    return powered(found, 1 / temperature)
