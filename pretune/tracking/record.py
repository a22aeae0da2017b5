"""One run as MLflow has it on record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self


@dataclass(frozen=True)
class Record:
    """One run; `inputs` and `outputs` are {path: md5}, `artifacts` is where its files lie."""

    run_id: str
    name: str
    status: str
    started: int
    parent: str | None
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: str = ""

    @classmethod
    def of(
        cls, run_id: str, name: str, status: str, started: int, artifacts: str, *, tags: dict[str, str],
        params: dict[str, str], metrics: dict[str, float], models: list[str],
    ) -> Self:  # fmt: skip
        """What tags tell is told apart."""
        return cls(
            run_id, name, status, started, tags.get("mlflow.parentRunId"), tags, params,
            inputs={key.removeprefix("dvc.in."): md5 for key, md5 in tags.items() if key.startswith("dvc.in.")},
            outputs={key.removeprefix("dvc.out."): md5 for key, md5 in tags.items() if key.startswith("dvc.out.")},
            models=models, metrics=metrics, artifacts=artifacts,
        )  # fmt: skip

    @property
    def executed(self) -> bool:
        """Whether the stage really ran, rather than being found in the cache."""
        return self.tags.get("pretune.status") == "executed"


class Found(NamedTuple):
    """The newest runs of those that were asked for; `total` is how many there are, None where nobody counted."""

    records: list[Record]
    total: int | None
