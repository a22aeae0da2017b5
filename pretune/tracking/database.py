"""Reads MLflow's SQLite database directly: MLflow's own client takes seconds to import.

Every query starts from a key or an index of MLflow's schema; CROSS JOIN keeps SQLite from choosing another order.
pretune/tracking/records.py uses MLflow's client for every other store.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.tracking.record import Record, SearchResult

INPUT = "dvc.in."  # prefix of the tag that holds the hash of an input
LAST = "\U0010ffff"  # sorts after every text with the same prefix


class Database:
    """The runs of one experiment. Raises sqlite3.Error or LookupError if the file is not a database of MLflow."""

    def __init__(self, path: Path, experiment: str) -> None:
        self._connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=60)
        by_name = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
        self._experiment = self._rows(by_name, experiment)[0][0]
        self._rows("SELECT is_nan, run_uuid FROM latest_metrics LIMIT 1")

    def get(self, run_ids: Sequence[str]) -> list[Record]:
        """The runs with these ids that exist, in this order."""
        runs = {
            run: (name, status, started, artifacts)
            for run, *(name, status, started, artifacts) in self._rows_of(
                run_ids, "SELECT run_uuid, name, status, start_time, artifact_uri FROM runs WHERE run_uuid IN ({})"
            )
        }
        facts: dict[str, dict[str, dict[str, Any]]] = {}
        for table, value in (("tags", "value"), ("params", "value"), ("latest_metrics", "iif(is_nan, 'nan', value)")):
            facts[table] = defaultdict(dict)
            query = f"SELECT run_uuid, key, {value} FROM {table} WHERE run_uuid IN ({{}})"  # noqa: S608 - no user's text
            for run, key, content in self._rows_of(run_ids, query):
                facts[table][run][key] = content
        models = defaultdict(list)
        outputs = "SELECT source_id, destination_id FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id IN ({})"
        for run, model in self._rows_of(run_ids, outputs):
            models[run].append(model)
        return [
            Record.of(
                run, *runs[run], tags=facts["tags"][run], params=facts["params"][run], models=models[run],
                metrics={key: float(number) for key, number in facts["latest_metrics"][run].items()},
            )
            for run in run_ids
            if run in runs
        ]  # fmt: skip

    def find(self, tags: Mapping[str, str], *, name: str, executed: bool, limit: int | None) -> SearchResult:
        """The newest runs with these tags. name: "" for any. executed: only those that ran and finished."""
        remaining = list(tags.items())
        source, where, values = self._first_table(remaining)
        if name:
            where, values = f"{where} AND r.name = ?", [*values, name]
        remaining += [("pretune.status", "executed")] if executed else []
        joined: list[str] = []
        for number, tag in enumerate(remaining):
            alias = f"t{number}"
            source += f" CROSS JOIN tags {alias} ON {alias}.run_uuid = r.run_uuid"
            source += f" AND {alias}.key = ? AND {alias}.value = ?"
            joined += tag
        status = " AND r.status = 'FINISHED'" if executed else ""
        query = (
            f"SELECT r.run_uuid, count(*) OVER () FROM {source} WHERE {where} AND r.experiment_id = ?"  # noqa: S608
            f" AND r.lifecycle_stage = 'active'{status} ORDER BY r.start_time DESC, r.run_uuid LIMIT ?"
        )
        rows = self._rows(query, *joined, *values, self._experiment, -1 if limit is None else limit)
        return SearchResult(self.get([run for run, _ in rows]), rows[0][1] if rows else 0)

    def _first_table(self, tags: list[tuple[str, str]]) -> tuple[str, str, list[Any]]:
        """Tables, condition and values of the first tag, which is removed from `tags`; of all runs if there is none.

        The hash of an input has a table with an index; the value of a tag has none.
        """
        if not tags:
            return "runs r", "1", []
        key, value = tags.pop(0)
        if not key.startswith(INPUT):
            return "tags t CROSS JOIN runs r ON r.run_uuid = t.run_uuid", "t.key = ? AND t.value = ?", [key, value]
        source = (
            "datasets d CROSS JOIN inputs i ON i.source_type = 'DATASET' AND i.source_id = d.dataset_uuid"
            " AND i.destination_type = 'RUN' CROSS JOIN runs r ON r.run_uuid = i.destination_id"
        )
        where = "d.experiment_id = ? AND d.name = ? AND d.digest = ?"
        return source, where, [self._experiment, key.removeprefix(INPUT), value]

    def starting(self, prefix: str) -> Record | None:
        """The run whose id, or the id of whose journal or model, starts with `prefix`."""
        for query in (
            "SELECT run_uuid FROM runs WHERE run_uuid >= ? AND run_uuid < ?",
            "SELECT source_run_id FROM logged_models WHERE model_id >= ? AND model_id < ?",
            "SELECT run_uuid FROM tags WHERE key = 'pretune.id' AND value >= ? AND value < ?",
        ):
            if rows := self._rows(f"{query} LIMIT 1", prefix, prefix + LAST):
                return next(iter(self.get([rows[0][0]])), None)
        return None

    def find_hash(self, prefix: str, paths: Iterable[str]) -> tuple[str, str] | None:
        """A path and a hash that starts with `prefix`: of an input of any run, or of an output at one of `paths`."""
        inputs = "SELECT name, digest FROM datasets WHERE experiment_id = ? AND digest >= ? AND digest < ? LIMIT 1"
        if rows := self._rows(inputs, self._experiment, prefix, prefix + LAST):
            return str(rows[0][0]), str(rows[0][1])
        outputs = "SELECT value FROM tags WHERE key = ? AND value >= ? AND value < ? LIMIT 1"
        for path in paths:
            if rows := self._rows(outputs, f"dvc.out.{path}", prefix, prefix + LAST):
                return path, str(rows[0][0])
        return None

    def _rows_of(self, run_ids: Sequence[str], query: str) -> list[tuple[Any, ...]]:
        return self._rows(query.format(", ".join("?" * len(run_ids))), *run_ids) if run_ids else []

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()
