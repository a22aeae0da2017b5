"""What a metric is."""

from __future__ import annotations

from dataclasses import dataclass

from pretune.evaluation.intervals import Measure


@dataclass(frozen=True)
class Metric:
    """A measure, whether more of it is better, and how exactly it was taken where there are several ways."""

    measure: Measure
    higher: bool = True
    signature: str = ""

    @property
    def sign(self) -> int:
        """What a difference is multiplied by, so that positive is better."""
        return 1 if self.higher else -1
