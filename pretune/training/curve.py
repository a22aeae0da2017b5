"""The learning curve of a training stage, as a table that DVC can plot."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretune.training.loop import State


def write(path: Path, state: State, flops: int) -> None:
    """Write step, loss (nats), learning rate, FLOPs so far, and what validation found; speed varies, so it is left out.

    flops: of one step.
    """
    rows: dict[int, dict[str, str]] = {}
    for record in state.records:
        values = {"loss": f"{record.loss:.6f}", "learning_rate": f"{record.learning_rate:.8g}"}
        rows[record.step] = {"step": str(record.step)} | values
    for found in state.validations:
        values = {f"validation_{name}": f"{value:.6f}" for name, value in found.metrics.items()}
        rows.setdefault(found.step, {"step": str(found.step)}).update(values)
    for step, row in rows.items():
        row["flops"] = str(flops * step)
    validated = [f"validation_{name}" for name in (state.validations[0].metrics if state.validations else ())]
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["step", "loss", "learning_rate", "flops", *validated], lineterminator="\n")
        table.writeheader()
        table.writerows(rows[step] for step in sorted(rows))
