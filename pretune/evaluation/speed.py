"""How long a model takes over one row, and how large it is: for the record, never for an output."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pretune.data.rows import Row

ROWS = 200  # that are timed, one by one
FIRST = 5  # that are not: what is loaded or compiled on the way does not count


def measured(model: Callable[[list[Row]], Any], rows: list[Row]) -> dict[str, float]:
    """Seconds that single rows took: half of them, and 99 of 100, took no longer."""
    chosen = [rows[place % len(rows)] for place in range(FIRST + ROWS)]
    taken = []
    for row in chosen:
        began = time.perf_counter()
        model([row])
        taken.append(time.perf_counter() - began)
    half, most = np.quantile(taken[FIRST:], [0.5, 0.99])
    return {"latency_p50": float(half), "latency_p99": float(most)}


def megabytes(folder: Path) -> float:
    """Of all files of a model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
