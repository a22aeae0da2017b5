"""The robust fit behind `scaling` (Hoffmann et al. 2022, section 3.3).

Minimizes the Huber loss (delta = 1e-3) of log L(N, D) - log loss over e = log E, a = log A, alpha, b = log B, beta:
log L = LSE(e, a - alpha log N, b - beta log D), by L-BFGS from a grid of starts. Four things differ from the paper:
N and D are centred (their geometric means are 1) and the grid is relative to the losses, so that no size or unit is
special; alpha and beta stay within 0 and 5; only the best starts of the grid are followed, first with a larger delta;
losses are summed, not averaged, since small values stop the optimizer early (Besiroglu et al. 2024).
"""

from __future__ import annotations

from itertools import product

import numpy as np

from pretune.studies.resampling import Floats

NAMES = ("E", "A", "alpha", "B", "beta")
DELTAS = (1e-1, 1e-2, 1e-3)  # the last one is the paper's
EXPONENTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # the paper's
FLOORS = (0.05, 0.3, 0.6, 0.9, 0.99)  # E, as a share of the smallest loss
SHARES = (0.01, 0.1, 0.3, 0.6)  # what N or D adds at their geometric means, as a share of the median loss
FOLLOWED = 6  # starts
HIGHEST = 5.0  # alpha, beta
FLAT = 1e-6  # a term that changes the loss by a smaller share over all runs is no effect


def loss_at(coefficients: Floats, parameters: Floats | float, tokens: Floats | float) -> Floats:
    """L(N, D) by (laws, 5) coefficients E, A, alpha, B, beta: (laws,), or (runs,) for one law and (runs,) N and D."""
    e, a, alpha, b, beta = coefficients.T
    return np.asarray(e + a * parameters**-alpha + b * tokens**-beta, dtype=np.float64)


def solve(n: Floats, d: Floats, loss: Floats, *, data_varies: bool, start: Floats | None = None) -> Floats:
    """E, A, alpha, B, beta of the best fit to the losses of runs, each (runs,): (5,). B = beta = 0 without data_varies.

    start: coefficients to begin at, instead of the grid. Equal losses give the flat law E.
    """
    if not np.isfinite(loss).all():
        return np.full(5, np.nan)
    if np.ptp(np.log(loss)) < FLAT:
        return np.array([float(np.median(loss)), 0.0, 0.0, 0.0, 0.0])
    x, y, target = np.log(n), np.log(d), np.log(loss)
    centres = float(x.mean()), float(y.mean())
    inputs = np.stack([x - centres[0], y - centres[1]][: 2 if data_varies else 1])
    starts = _grid(inputs, target) if start is None else [_inner(start, centres, len(inputs), target)]
    found = [_descend(theta, inputs, target, DELTAS if start is None else DELTAS[1:]) for theta in starts]
    theta = min(found, key=lambda pair: pair[0])[1]
    return _outer(theta, inputs, centres)


def _objective(theta: Floats, inputs: Floats, target: Floats, delta: float) -> tuple[float, Floats]:
    """The summed Huber loss in units of delta^2, and its gradient. theta: e, then (a, alpha) for each input."""
    logs, scales, exponents = theta[0], theta[1::2, None], theta[2::2, None]
    terms = np.concatenate([np.full((1, len(target)), logs), scales - exponents * inputs])
    top = terms.max(axis=0)
    parts = np.exp(terms - top)
    total = parts.sum(axis=0)
    z = (top + np.log(total) - target) / delta
    value = np.where(np.abs(z) <= 1, z * z / 2, np.abs(z) - 0.5).sum()
    pull = np.clip(z, -1, 1) / delta * (parts / total)
    gradient = np.empty_like(theta)
    gradient[0] = pull[0].sum()
    gradient[1::2] = pull[1:].sum(axis=1)
    gradient[2::2] = -(pull[1:] * inputs).sum(axis=1)
    return float(value), gradient


def _descend(theta: Floats, inputs: Floats, target: Floats, deltas: tuple[float, ...]) -> tuple[float, Floats]:
    """The value reached and where; a smaller delta starts where the larger one ended."""
    from scipy.optimize import minimize

    bounds = [(-40.0, 40.0), *[(-40.0, 40.0), (0.0, HIGHEST)] * len(inputs)]
    value = np.inf
    for delta in deltas:
        options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8}
        result = minimize(
            _objective, theta, (inputs, target, delta), "L-BFGS-B", jac=True, bounds=bounds, options=options
        )
        value, theta = float(result.fun), np.asarray(result.x)
    return value, theta


def _grid(inputs: Floats, target: Floats) -> list[Floats]:
    """The best starts of the grid."""
    middle = float(np.median(target))
    each = [[middle + np.log(share) for share in SHARES], EXPONENTS] * len(inputs)
    starts = np.array(list(product([target.min() + np.log(floor) for floor in FLOORS], *each)))
    terms = starts[:, 1::2, None] - starts[:, 2::2, None] * inputs
    errors = np.log(np.exp(starts[:, :1]) + np.exp(terms).sum(axis=1)) - target
    return list(starts[np.argsort(np.abs(errors).sum(axis=1), kind="stable")[:FOLLOWED]])


def _inner(coefficients: Floats, centres: tuple[float, ...], inputs: int, target: Floats) -> Floats:
    """Coefficients as the optimizer sees them; what is 0 becomes small, so that it can grow again."""
    smallest = float(target.min()) + np.log(1e-3)
    theta = [max(np.log(max(coefficients[0], 1e-300)), smallest)]
    for number in range(inputs):
        scale, exponent = coefficients[1 + 2 * number], coefficients[2 + 2 * number]
        theta += [max(np.log(max(scale, 1e-300)) - exponent * centres[number], smallest), exponent or 0.5]
    return np.array(theta)


def _outer(theta: Floats, inputs: Floats, centres: tuple[float, ...]) -> Floats:
    """E, A, alpha, B, beta: (5,). A term that does not vary belongs to E."""
    coefficients = np.zeros(5)
    coefficients[0] = np.exp(theta[0])
    for number, (scale, exponent) in enumerate(zip(theta[1::2], theta[2::2], strict=True)):
        added = np.exp(scale - exponent * inputs[number])
        if np.ptp(added) < FLAT * np.exp(theta[0]) or exponent == 0:
            coefficients[0] += float(added.mean())
        else:
            coefficients[1 + 2 * number : 3 + 2 * number] = np.exp(scale + exponent * centres[number]), exponent
    return coefficients
