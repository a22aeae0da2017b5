"""The log-probabilities of labelled rows under the model that training starts from: computed once, kept in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from pretune.data.rows import Row
from pretune.errors import DataError

KEY = "log_probs"  # (rows, numbers) float32, in nats; what the numbers stand for, the objective says


def write(path: Path, log_probs: npt.NDArray[np.float32]) -> None:
    """Write the values of all rows of a split."""
    save_file({KEY: np.ascontiguousarray(log_probs)}, path)


def attach(rows: list[Row], path: Path) -> list[Row]:
    """The rows, each with its values under `reference`. DataError if the file is missing or of other rows."""
    values = load_file(path)[KEY] if path.is_file() else np.zeros((0, 2), dtype=np.float32)
    if len(values) != len(rows):
        raise DataError(
            f"{path} holds {len(values)} rows, the labelled rows are {len(rows)}", "pretune run   (computes it anew)"
        )
    return [row | {"reference": value} for row, value in zip(rows, values.tolist(), strict=True)]
