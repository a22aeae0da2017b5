"""The state of a training run that a checkpoint keeps besides tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pretune.runtime.events import Record, Validation


@dataclass
class State:
    """Progress and history of a run."""

    step: int = 0
    skipped: int = 0  # up to the last record
    records: list[Record] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    best: int = 0  # index into `validations`

    @classmethod
    def of(cls, facts: dict[str, Any]) -> State:
        """The inverse of `dataclasses.asdict`, also after JSON."""
        records = [Record(**record) for record in facts["records"]]
        validations = [Validation(**validation) for validation in facts["validations"]]
        return cls(**facts | {"records": records, "validations": validations})
