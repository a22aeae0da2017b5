"""What a checkpoint keeps of a training run besides tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pretune.runtime.events import Record, Validation


@dataclass
class State:
    """What a run knows besides tensors."""

    step: int = 0
    skipped: int = 0  # up to the last record
    records: list[Record] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    best: int = 0  # place in `validations`

    @classmethod
    def of(cls, facts: dict[str, Any]) -> State:
        """What `asdict` made of one, and JSON of that."""
        records = [Record(**each) for each in facts["records"]]
        validations = [Validation(**each) for each in facts["validations"]]
        return cls(**facts | {"records": records, "validations": validations})
