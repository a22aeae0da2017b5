"""The latency and the size of a model. They vary between machines, so they go to MLflow and not into outputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pretune.data.rows import Row

ROWS = 200  # timed one by one
WARMUP = 5  # rows before them, not timed: loading and compiling do not count


def latency(model: Callable[[list[Row]], Any], rows: list[Row]) -> dict[str, float]:
    """The median and the 99th percentile of the seconds that a single row takes."""
    seconds = []
    for number in range(WARMUP + ROWS):
        start = time.perf_counter()
        model([rows[number % len(rows)]])
        seconds.append(time.perf_counter() - start)
    p50, p99 = np.quantile(seconds[WARMUP:], [0.5, 0.99])
    return {"latency_p50": float(p50), "latency_p99": float(p99)}


def megabytes(folder: Path) -> float:
    """The size of all files of a model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
