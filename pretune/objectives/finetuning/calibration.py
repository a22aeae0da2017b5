"""Temperature scaling (Guo et al. 2017): one divisor of the logits that calibrates a model's probabilities.

The predicted class does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

LOWEST, HIGHEST = 0.05, 20.0  # bounds of the search: a fit that ends there says that the rows do not determine it


def temperature(logits: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The temperature that minimises the mean `loss` (nats) on these rows, to four significant digits.

    logits: (rows, outputs) float32; targets: the second argument of `loss`.
    """
    from scipy.optimize import minimize_scalar

    double = logits.double()
    aims = targets.double() if targets.is_floating_point() else targets

    def loss_at(logarithm: float) -> float:
        return float(loss(double / math.exp(logarithm), aims))

    minimum = minimize_scalar(loss_at, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return float(f"{math.exp(minimum.x):.4g}")
