"""Temperature scaling (Guo et al. 2017): one number that makes a model as sure as it is right.

Logits are divided by it when the model answers; what is likeliest stays the likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

LEAST, MOST = 0.05, 20.0  # a temperature beyond these says that the rows cannot tell


def temperature(logits: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The temperature with the least mean `loss` (nats) on these rows, to four digits.

    logits: (rows, outputs) float32; targets: what `loss` takes beside them.
    """
    from scipy.optimize import minimize_scalar

    precise = logits.double()
    aims = targets.double() if targets.is_floating_point() else targets

    def at(logarithm: float) -> float:
        return float(loss(precise / math.exp(logarithm), aims))

    found = minimize_scalar(at, bounds=(math.log(LEAST), math.log(MOST)), method="bounded")
    return float(f"{math.exp(found.x):.4g}")
