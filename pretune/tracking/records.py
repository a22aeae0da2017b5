"""What MLflow has on record, found by id, tag or hash: no question takes longer for a longer history.

A workspace's own database is read directly (pretune/tracking/database.py); any other store, or a database that looks
otherwise than expected, is asked through MLflow's client. Both answer alike.
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
from pretune.tracking.record import Found, Record

SHORT = 8  # characters of an id or a hash that suffice
PREFIX = re.compile(rf"[\w.-]{{{SHORT},}}", re.ASCII)
PAGE = 1000  # runs a request


class Records:
    """The runs of a workspace. WorkspaceError where MLflow does not answer."""

    def __init__(self, root: Path, state: Path) -> None:
        self._root, self._state = root, state
        _let_sender_finish(state)
        self._store: Database | Service = self._database() or self._service()
        self._makers: dict[tuple[str, str], Record | None] = {}

    def get(self, run_id: str) -> Record | None:
        """The run of this id."""
        return next(iter(self._store.get([run_id])), None)

    def starting(self, prefix: str) -> Record | None:
        """The run of which this is the id, or that of its journal or model; SHORT characters suffice."""
        return self._store.starting(prefix) if PREFIX.fullmatch(prefix) else None

    def hashed(self, prefix: str, paths: Iterable[str]) -> tuple[str, str] | None:
        """A path and its hash that begins so, among all that runs read and what they wrote to `paths`."""
        return self._store.hashed(prefix, paths) if PREFIX.fullmatch(prefix) else None

    def maker(self, path: str, md5: str) -> Record | None:
        """The last run that executed, and wrote these bytes there."""
        if (path, md5) not in self._makers:
            found = self._store.find({f"dvc.out.{path}": md5}, name="", executed=True, most=1)
            self._makers[path, md5] = next(iter(found.records), None)
        return self._makers[path, md5]

    def users(self, path: str, md5: str, *, stage: str = "", most: int | None = None) -> Found:
        """The newest runs that executed (a stage), and read these bytes there."""
        return self._store.find({f"dvc.in.{path}": md5}, name=stage, executed=True, most=most)

    def newest(self, stage: str, most: int = 1) -> list[Record]:
        """The last runs that executed a stage."""
        return self._store.find({}, name=stage, executed=True, most=most).records

    def children(self, run: Record) -> list[Record]:
        """The stage runs of a pipeline run, in their order."""
        found = self._store.find({"mlflow.parentRunId": run.run_id}, name="", executed=False, most=None)
        return found.records[::-1]

    def executed(self, run: Record) -> Record:
        """The run itself, or the one whose result it found in the cache."""
        source = run.tags.get("pretune.source_run")
        return (self.get(source) if source else None) or run

    def _database(self) -> Database | None:
        """The workspace's own database, where there is one that can be read."""
        path = tracking_uri(self._root).removeprefix("sqlite:///")
        if not Path(path).is_file():
            return None
        try:
            return Database(Path(path).absolute(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        except (sqlite3.Error, LookupError):
            return None

    def _service(self) -> Service:
        try:
            return Service(*connect(self._root, self._state))
        except Exception as error:
            what = f"MLflow at {tracking_uri(self._root)} does not answer: {first_line(error)}"
            raise WorkspaceError(what, "pretune doctor") from error


class Service:
    """The same questions to MLflow's client, for servers and other databases."""

    def __init__(self, client: Any, experiment: str) -> None:
        self._client, self._experiment = client, experiment

    def get(self, run_ids: Sequence[str]) -> list[Record]:
        """Those of these runs that are there, in this order."""
        listed = ", ".join(f"'{run}'" for run in run_ids)
        found = {each.run_id: each for each in self._search(f"attributes.run_id IN ({listed})", most=len(run_ids))}
        return [found[run] for run in run_ids if run in found]

    def find(self, tags: Mapping[str, str], *, name: str, executed: bool, most: int | None) -> Found:
        """The newest runs that have these tags, and how many there are where all were asked for."""
        parts = [f"tags.`{tag_name(key)}` = '{value}'" for key, value in tags.items()]
        parts += [f"attributes.run_name = '{name}'"] if name else []
        parts += ["tags.`pretune.status` = 'executed'", "attributes.status = 'FINISHED'"] if executed else []
        found = self._search(" AND ".join(parts), most=most if most is None else most + 1)
        counted = most is None or len(found) <= most
        return Found(found[:most], len(found) if counted else None)

    def starting(self, prefix: str) -> Record | None:
        """The run whose id begins so, or that of its journal or model."""
        if found := self._search(f"attributes.run_id LIKE '{prefix}%'", most=1):
            return found[0]
        models = self._client.search_logged_models([self._experiment], f"model_id LIKE '{prefix}%'", max_results=1)
        if models:
            return next(iter(self.get([models[0].source_run_id])), None)
        return next(iter(self._search(f"tags.`pretune.id` LIKE '{prefix}%'", most=1)), None)

    def hashed(self, prefix: str, paths: Iterable[str]) -> tuple[str, str] | None:
        """A path and its hash that begins so: of what runs read, then of what they wrote to `paths`."""
        asked = [(f"dataset.digest LIKE '{prefix}%'", "inputs")]
        asked += [(f"tags.`dvc.out.{tag_name(path)}` LIKE '{prefix}%'", "outputs") for path in paths]
        for wanted, side in asked:
            for run in self._search(wanted, most=1):
                return next((path, md5) for path, md5 in getattr(run, side).items() if md5.startswith(prefix))
        return None

    def _search(self, wanted: str, *, most: int | None) -> list[Record]:
        """The newest first."""
        found: list[Any] = []
        token = None
        while most is None or len(found) < most:
            size = PAGE if most is None else min(PAGE, most - len(found))
            page = self._client.search_runs([self._experiment], wanted, max_results=size, page_token=token)
            found += page
            if not (token := page.token):
                break
        return [_record(run) for run in found]


def _record(run: Any) -> Record:
    info, data = run.info, run.data
    models = [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]
    return Record.of(
        info.run_id, info.run_name, info.status, info.start_time, info.artifact_uri,
        tags=data.tags, params=data.params, metrics=data.metrics, models=models,
    )  # fmt: skip


def _let_sender_finish(state: Path) -> None:
    """Records of runs that have ended may still be on their way: a sender at work has a few seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_locked(state / "locks" / "sender.lock"):
        folder = journal.folder(state)
        if all(journal.is_being_written(path) for path in folder.glob("*.jsonl")):
            return
        time.sleep(0.1)
