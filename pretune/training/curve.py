"""The learning curve of a training stage, as a table that DVC can plot."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretune.training.loop import Record


def write(path: Path, records: Iterable[Record]) -> None:
    """Write step, loss (nats) and learning rate; speed is left out, for it varies."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["step", "loss", "learning_rate"])
        table.writerows([r.step, f"{r.loss:.6f}", f"{r.learning_rate:.8g}"] for r in records)
