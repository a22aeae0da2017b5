"""One run as MLflow records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self


@dataclass(frozen=True)
class Record:
    """One run. inputs, outputs: {path: md5}. started: milliseconds since 1970. artifacts: the address of its files."""

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
        """A record from the fields of MLflow: parent, inputs and outputs are tags."""
        return cls(
            run_id, name, status, started, tags.get("mlflow.parentRunId"), tags, params,
            inputs={key.removeprefix("dvc.in."): md5 for key, md5 in tags.items() if key.startswith("dvc.in.")},
            outputs={key.removeprefix("dvc.out."): md5 for key, md5 in tags.items() if key.startswith("dvc.out.")},
            models=models, metrics=metrics, artifacts=artifacts,
        )  # fmt: skip

    @property
    def is_pipeline(self) -> bool:
        """Whether it is the record of a pipeline run, rather than of a stage."""
        return self.tags.get("pretune.kind") == "pipeline"

    @property
    def executed(self) -> bool:
        """Whether the stage ran, rather than being restored from the cache."""
        return self.tags.get("pretune.status") == "executed"


class SearchResult(NamedTuple):
    """The newest runs that match. total: how many match; None if they were not counted."""

    records: list[Record]
    total: int | None
