"""Shared by the objectives whose targets are classes: names in the configuration, loss, label smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional


def label_names(labels: Sequence[str]) -> dict[str, Any]:
    """The keys of a configuration that name its labels."""
    return {"id2label": dict(enumerate(labels)), "label2id": {name: number for number, name in enumerate(labels)}}


def class_metrics(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> dict[str, Tensor]:
    """Sums over the rows: cross entropy in nats, and correct predictions.

    logits: (rows, classes), targets: (rows,) int64. smoothing: see Szegedy et al. 2016.
    """
    return {
        "loss": functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing),
        "accuracy": (logits.argmax(dim=-1) == targets).sum(),
    }


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """Binary targets, 0 or 1, with label smoothing as for two classes."""
    return targets * (1 - smoothing) + smoothing / 2
