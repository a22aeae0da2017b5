"""What a sweep has found: its trials, the seeds of each, and the judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["complete", "pruned", "failed", "left out", "running"]
Point = dict[str, Any]  # a value for each dotted key of params.yaml that the sweep varies


@dataclass(frozen=True)
class SeedResult:
    """One run of a point. value: the metric on the validation rows; costs: seconds, flops, ... by name.

    curve: (step, metric) of the validations while it trained. run: the id of its record. held_out: the file name of
    its predictions for the validation rows; "" if the metric is one of the curve.
    """

    seed: int
    value: float
    costs: Mapping[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    run: str = ""
    held_out: str = ""


@dataclass(frozen=True)
class TrialResult:
    """One point. note: why it was left out, pruned or failed."""

    number: int
    point: Point
    state: State
    seeds: list[SeedResult] = field(default_factory=list)
    note: str = ""

    @property
    def value(self) -> float:
        """The mean over the seeds; NaN without one."""
        return sum(seed.value for seed in self.seeds) / len(self.seeds) if self.seeds else float("nan")

    def cost(self, name: str) -> float | None:
        """The mean of a cost over the seeds that have it."""
        known = [seed.costs[name] for seed in self.seeds if name in seed.costs]
        return sum(known) / len(known) if known else None
