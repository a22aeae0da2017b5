"""The latency and the size of a model. They vary between machines, so they go to MLflow and not into outputs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from pretune.data.rows import Row

ROWS, WARMUP = 200, 5  # timed one by one, and rows before them that are not: loading and compiling do not count
GENERATED, WARMUP_GENERATED = 10, 1  # the same where text is generated: a row takes seconds, which vary little


def latency(model: Any, rows: list[Row]) -> dict[str, float]:
    """The median and the 99th percentile of the seconds that a single row takes; per token too if it is generated."""
    column = getattr(model, "generated", None)
    timed, warmup = (GENERATED, WARMUP_GENERATED) if column else (ROWS, WARMUP)
    seconds, tokens = [], []
    for number in range(warmup + timed):
        start = time.perf_counter()
        (answer,) = model([rows[number % len(rows)]])
        seconds.append(time.perf_counter() - start)
        if column:
            ids = model.tokenizer(answer[column], add_special_tokens=False)["input_ids"]
            tokens.append(len(ids) + 1)  # the one that ends it
    p50, p99 = np.quantile(seconds[warmup:], [0.5, 0.99])
    per_token = {"latency_per_token": sum(seconds[warmup:]) / sum(tokens[warmup:])} if column else {}
    return {"latency_p50": float(p50), "latency_p99": float(p99)} | per_token


def megabytes(folder: Path) -> float:
    """The size of all files of a model."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
