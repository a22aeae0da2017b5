"""Finds runs in MLflow by id, tag or hash; no query gets slower as the history grows.

A workspace's own database is read directly (pretune/tracking/database.py); any other store, and a database with
another schema, through MLflow's client. Both return the same.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.errors import WorkspaceError
from pretune.process import is_locked
from pretune.tracking import journal
from pretune.tracking.client import EXPERIMENT, connect, first_line, tag_name, tracking_uri
from pretune.tracking.database import Database
from pretune.tracking.record import Record, SearchResult
from pretune.tracking.refusal import refusal

SHORT = 8  # characters of an id or a hash that identify it
PREFIX = re.compile(rf"[\w.-]{{{SHORT},}}", re.ASCII)
PAGE = 1000  # runs a request
FEW = 8  # of the data whose users are asked for one by one
RECENT = 24 * 3600 * 1000  # ms; of many runs, the newest are looked for here first


EXECUTED = ["tags.`pretune.status` = 'executed'", "attributes.status = 'FINISHED'"]


class Records:
    """The runs of a workspace. Raises WorkspaceError if MLflow does not answer."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root, self._state = root, state
        _let_sender_finish(state)
        self._store: Database | MlflowStore = self._database() or self._mlflow_store()
        self._makers: dict[tuple[str, str], Record | None] = {}

    def get(self, run_id: str) -> Record | None:
        """The run with this id; None if there is none."""
        return next(iter(self._store.get([run_id])), None)

    def starting(self, prefix: str) -> Record | None:
        """The run whose id, or the id of whose journal or model, starts with `prefix`: SHORT characters or more."""
        return self._store.starting(prefix) if PREFIX.fullmatch(prefix) else None

    def find_hash(self, prefix: str, paths: Iterable[str]) -> tuple[str, str] | None:
        """A path and a hash that starts with `prefix`: of an input of any run, or of an output at one of `paths`."""
        return self._store.find_hash(prefix, paths) if PREFIX.fullmatch(prefix) else None

    def maker(self, path: str, md5: str) -> Record | None:
        """The newest run that executed and wrote `path` with this hash."""
        if (path, md5) not in self._makers:
            newest = self._store.find({f"dvc.out.{path}": md5}, name="", executed=True, limit=1).records
            self._makers[path, md5] = next(iter(newest), None)
        return self._makers[path, md5]

    def users(self, path: str, md5: str, *, stage: str = "", limit: int | None = None) -> SearchResult:
        """The newest runs that executed (`stage`, if given) and read `path` with this hash; at most `limit`."""
        return self._store.find({f"dvc.in.{path}": md5}, name=stage, executed=True, limit=limit)

    def users_of_all(self, data: Sequence[tuple[str, str]], limit: int | None) -> list[SearchResult]:
        """`users` of each of these paths and hashes."""
        if isinstance(self._store, MlflowStore) and len(data) > FEW and (found := self._store.users(data, limit)):
            return found
        return [self.users(path, md5, limit=limit) for path, md5 in data]

    def newest(self, stage: str, limit: int = 1) -> list[Record]:
        """The newest runs that executed a stage."""
        return self._store.find({}, name=stage, executed=True, limit=limit).records

    def children(self, run: Record) -> list[Record]:
        """The stage runs of a pipeline run, the oldest first."""
        tags = {"mlflow.parentRunId": run.run_id}
        return self._store.find(tags, name="", executed=False, limit=None).records[::-1]

    def executed(self, run: Record) -> Record:
        """The run itself, or the run whose result it restored from the cache."""
        source = run.tags.get("pretune.source_run")
        return (self.get(source) if source else None) or run

    def _database(self) -> Database | None:
        """The workspace's own database; None if there is none that can be read."""
        path = tracking_uri(self._root).removeprefix("sqlite:///")
        if not Path(path).is_file():
            return None
        try:
            return Database(Path(path).absolute(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        except (sqlite3.Error, LookupError):
            return None

    def _mlflow_store(self) -> MlflowStore:
        try:
            return MlflowStore(*connect(self._root, self._state))
        except WorkspaceError:
            raise
        except Exception as error:
            if refused := refusal(error):
                raise refused from error
            problem = f"MLflow at {tracking_uri(self._root)} does not answer: {first_line(error)}"
            raise WorkspaceError(problem, "pretune doctor") from error


class MlflowStore:
    """The queries of Database through MLflow's client, for servers and other databases."""

    def __init__(self, client: Any, experiment: str) -> None:
        self._client, self._experiment = client, experiment

    def get(self, run_ids: Sequence[str]) -> list[Record]:
        """The runs with these ids that exist, in this order."""
        quoted = ", ".join(f"'{run_id}'" for run_id in run_ids)
        records = {run.run_id: run for run in self._search(f"attributes.run_id IN ({quoted})", limit=len(run_ids))}
        return [records[run_id] for run_id in run_ids if run_id in records]

    def find(self, tags: Mapping[str, str], *, name: str, executed: bool, limit: int | None) -> SearchResult:
        """The newest runs with these tags; counted only if `limit` does not cut them off."""
        parts = [f"tags.`{tag_name(key)}` = '{value}'" for key, value in tags.items()]
        parts += [f"attributes.run_name = '{name}'"] if name else []
        parts += EXECUTED if executed else []
        if executed and limit is not None and limit > 1:
            since = f"attributes.start_time > {time.time() * 1000 - RECENT:.0f}"
            if len(records := self._search(" AND ".join([*parts, since]), limit=limit + 1)) > limit:
                return SearchResult(records[:limit], None)
        records = self._search(" AND ".join(parts), limit=limit if limit is None else limit + 1)
        complete = limit is None or len(records) <= limit
        return SearchResult(records[:limit], len(records) if complete else None)

    def users(self, data: Sequence[tuple[str, str]], limit: int | None) -> list[SearchResult] | None:
        """The newest runs that executed and read each of these paths and hashes; None if one request is too small."""
        hashes = ", ".join(f"'{md5}'" for md5 in dict.fromkeys(md5 for _, md5 in data))
        records = self._search(" AND ".join([f"dataset.digest IN ({hashes})", *EXECUTED]), limit=PAGE)
        if len(records) == PAGE:
            return None
        of_each = [[run for run in records if run.tags.get(tag_name(f"dvc.in.{path}")) == md5] for path, md5 in data]
        return [SearchResult(users[:limit], len(users)) for users in of_each]

    def starting(self, prefix: str) -> Record | None:
        """The run whose id, or the id of whose journal or model, starts with `prefix`."""
        if records := self._search(f"attributes.run_id LIKE '{prefix}%'", limit=1):
            return records[0]
        models = self._client.search_logged_models([self._experiment], f"model_id LIKE '{prefix}%'", max_results=1)
        if models:
            return next(iter(self.get([models[0].source_run_id])), None)
        return next(iter(self._search(f"tags.`pretune.id` LIKE '{prefix}%'", limit=1)), None)

    def find_hash(self, prefix: str, paths: Iterable[str]) -> tuple[str, str] | None:
        """A path and a hash that starts with `prefix`: of an input of any run, or of an output at one of `paths`."""
        filters = [(f"dataset.digest LIKE '{prefix}%'", "inputs")]
        filters += [(f"tags.`dvc.out.{tag_name(path)}` LIKE '{prefix}%'", "outputs") for path in paths]
        for query, files in filters:
            for run in self._search(query, limit=1):
                return next((path, md5) for path, md5 in getattr(run, files).items() if md5.startswith(prefix))
        return None

    def _search(self, query: str, *, limit: int | None) -> list[Record]:
        """The newest first."""
        runs: list[Any] = []
        token = None
        while limit is None or len(runs) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(runs))
            page = self._client.search_runs([self._experiment], query, max_results=size, page_token=token)
            runs += page
            if not (token := page.token):
                break
        return [_record(run) for run in runs]


def _record(run: Any) -> Record:
    info, data = run.info, run.data
    models = [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]
    return Record.of(
        info.run_id, info.run_name, info.status, info.start_time, info.artifact_uri,
        tags=data.tags, params=data.params, metrics=data.metrics, models=models,
    )  # fmt: skip


def _let_sender_finish(state: Path) -> None:
    """Wait a few seconds for a sender that is still sending records of runs that have ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_locked(state / "locks" / "sender.lock"):
        folder = journal.folder(state)
        if all(journal.is_being_written(path) for path in folder.glob("*.jsonl")):
            return
        time.sleep(0.1)
