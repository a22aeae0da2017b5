"""MLflow's SQLite database, read as it lies: MLflow's own client takes seconds to import and milliseconds to ask.

Every query here enters by a key or an index of MLflow's schema; CROSS JOIN keeps SQLite from another order.
`pretune.records` says what the questions mean, and asks MLflow itself where this is not such a database.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.tracking.record import Found, Record

READ = "dvc.in."  # before a path, in the name of a tag
LAST = "\U0010ffff"  # after all that begins alike


class Database:
    """The runs of one experiment. sqlite3.Error or LookupError where the file is not what MLflow makes."""

    def __init__(self, path: Path, experiment: str) -> None:
        self._connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=60)
        named = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
        self._experiment = self._rows(named, experiment)[0][0]
        self._rows("SELECT is_nan, run_uuid FROM latest_metrics LIMIT 1")

    def get(self, run_ids: Sequence[str]) -> list[Record]:
        """Those of these runs that are there, in this order."""
        runs = {
            run: (name, status, started, artifacts)
            for run, *(name, status, started, artifacts) in self._about(
                run_ids, "SELECT run_uuid, name, status, start_time, artifact_uri FROM runs WHERE run_uuid IN ({})"
            )
        }
        facts: dict[str, dict[str, dict[str, Any]]] = {}
        for table, value in (("tags", "value"), ("params", "value"), ("latest_metrics", "iif(is_nan, 'nan', value)")):
            facts[table] = defaultdict(dict)
            query = f"SELECT run_uuid, key, {value} FROM {table} WHERE run_uuid IN ({{}})"  # noqa: S608 - no user's text
            for run, key, each in self._about(run_ids, query):
                facts[table][run][key] = each
        models = defaultdict(list)
        written = "SELECT source_id, destination_id FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id IN ({})"
        for run, model in self._about(run_ids, written):
            models[run].append(model)
        return [
            Record.of(
                run, *runs[run], tags=facts["tags"][run], params=facts["params"][run], models=models[run],
                metrics={key: float(each) for key, each in facts["latest_metrics"][run].items()},
            )
            for run in run_ids
            if run in runs
        ]  # fmt: skip

    def find(self, tags: Mapping[str, str], *, name: str, executed: bool, most: int | None) -> Found:
        """The newest runs of this name, if any, that have these tags, and how many have them."""
        wanted = list(tags.items())
        source, where, values = self._way_in(wanted)
        if name:
            where, values = f"{where} AND r.name = ?", [*values, name]
        wanted += [("pretune.status", "executed")] if executed else []
        joined: list[str] = []
        for number, tag in enumerate(wanted):
            each = f"t{number}"
            source += f" CROSS JOIN tags {each} ON {each}.run_uuid = r.run_uuid AND {each}.key = ? AND {each}.value = ?"
            joined += tag
        status = " AND r.status = 'FINISHED'" if executed else ""
        query = (
            f"SELECT r.run_uuid, count(*) OVER () FROM {source} WHERE {where} AND r.experiment_id = ?"  # noqa: S608
            f" AND r.lifecycle_stage = 'active'{status} ORDER BY r.start_time DESC, r.run_uuid LIMIT ?"
        )
        rows = self._rows(query, *joined, *values, self._experiment, -1 if most is None else most)
        return Found(self.get([run for run, _ in rows]), rows[0][1] if rows else 0)

    def _way_in(self, wanted: list[tuple[str, str]]) -> tuple[str, str, list[Any]]:
        """Tables, condition and its values: by the first tag, which is taken off `wanted`, if there is one.

        Data that was read has a table with an index for its hash; the value of a tag has none.
        """
        if not wanted:
            return "runs r", "1", []
        key, value = wanted.pop(0)
        if not key.startswith(READ):
            return "tags t CROSS JOIN runs r ON r.run_uuid = t.run_uuid", "t.key = ? AND t.value = ?", [key, value]
        source = (
            "datasets d CROSS JOIN inputs i ON i.source_type = 'DATASET' AND i.source_id = d.dataset_uuid"
            " AND i.destination_type = 'RUN' CROSS JOIN runs r ON r.run_uuid = i.destination_id"
        )
        where = "d.experiment_id = ? AND d.name = ? AND d.digest = ?"
        return source, where, [self._experiment, key.removeprefix(READ), value]

    def starting(self, prefix: str) -> Record | None:
        """The run whose id begins so, or that of its journal or model."""
        for query in (
            "SELECT run_uuid FROM runs WHERE run_uuid >= ? AND run_uuid < ?",
            "SELECT source_run_id FROM logged_models WHERE model_id >= ? AND model_id < ?",
            "SELECT run_uuid FROM tags WHERE key = 'pretune.id' AND value >= ? AND value < ?",
        ):
            if rows := self._rows(f"{query} LIMIT 1", prefix, prefix + LAST):
                return next(iter(self.get([rows[0][0]])), None)
        return None

    def hashed(self, prefix: str, paths: Iterable[str]) -> tuple[str, str] | None:
        """A path and its hash that begins so: of what runs read, then of what they wrote to `paths`."""
        read = "SELECT name, digest FROM datasets WHERE experiment_id = ? AND digest >= ? AND digest < ? LIMIT 1"
        if rows := self._rows(read, self._experiment, prefix, prefix + LAST):
            return str(rows[0][0]), str(rows[0][1])
        written = "SELECT value FROM tags WHERE key = ? AND value >= ? AND value < ? LIMIT 1"
        for path in paths:
            if rows := self._rows(written, f"dvc.out.{path}", prefix, prefix + LAST):
                return path, str(rows[0][0])
        return None

    def _about(self, run_ids: Sequence[str], query: str) -> list[tuple[Any, ...]]:
        return self._rows(query.format(", ".join("?" * len(run_ids))), *run_ids) if run_ids else []

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()
