"""A workspace in which one command is disturbed, and what is compared afterwards: files, hashes, records."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end import conftest
from tests.end_to_end.conftest import Clone
from tests.faults.injector import CHANGING

TIMED = ("gate.time",)  # tags of a version that hold a time
LIMIT = 120  # seconds after which a command counts as hung
UNTOLD = re.compile(r"^(system/|energy|co2|seconds|git\.|mlflow\.|pretune\.(id|parent))")  # what differs between runs


def run(clone: Clone, *arguments: str, **env: str) -> tuple[int | str, str]:
    """Run `python ARGUMENTS…` in a forked process; its exit code, or "hung", and what it printed."""
    for name in ("tmp", "home"):
        (clone.root.parent / name).mkdir(exist_ok=True)
    own = clone.environment(TMPDIR=str(clone.root.parent / "tmp"), **env)
    code: int | str
    with tempfile.TemporaryFile("w+") as out:
        try:
            code = conftest.warm_server().run(arguments, clone.root, own, (out, out))
        except TimeoutError:
            code = "hung"
        out.seek(0)
        return code, out.read()


def copy(clone: Clone, folder: Path) -> Clone:
    """A copy of a clone, whether or not it has a database of MLflow's."""
    if (clone.root / "mlflow.db").is_file():
        return conftest.copy_clone(clone, folder)
    shutil.copytree(clone.root, folder / "clone", symlinks=True)
    (folder / "clone" / ".dvc" / "config.local").unlink(missing_ok=True)  # it holds an absolute path
    return Clone(folder.resolve() / "clone")


def listing(clone: Clone) -> set[str]:
    """The files and folders that there are, without git's; what differs from run to run in their names is `*`."""
    top, found = clone.root.parent, set()
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name not in {".git", "__pycache__"}]
        found |= {CHANGING.sub("*", str((Path(folder) / name).relative_to(top))) for name in [*folders, *files]}
    return found - {"fired", "record"}


@dataclass
class Recorded:
    """An MLflow run."""

    id: str
    name: str
    status: str
    journal: str
    content: dict[str, Any] = field(default_factory=dict)


def records(database: Path, experiment: str = "pretune") -> list[Recorded]:
    """Every MLflow run of an experiment in a database of MLflow's, the oldest first, with all that it holds."""
    if not database.is_file():
        return []
    with contextlib.closing(sqlite3.connect(database)) as open_database:
        rows = open_database.execute(
            "select r.run_uuid, r.name, r.status from runs r join experiments e using (experiment_id)"
            " where e.name = ? order by r.start_time",
            (experiment,),
        ).fetchall()
        return [_read(open_database, Recorded(*row, journal="")) for row in rows]


def registry(database: Path) -> dict[str, str]:
    """{what: a text} of the models in MLflow's registry, their versions, tags and aliases."""
    with contextlib.closing(sqlite3.connect(database)) as open_database:
        ask = open_database.execute
        return {
            **{f"model {name}": "" for (name,) in ask("select name from registered_models")},
            **{f"version {version} of {name}": status for name, version, status in ask(
                "select name, version, status from model_versions where current_stage != 'Deleted_Internal'")},
            **{f"alias {alias} of {name}": str(version) for name, alias, version in ask(
                "select name, alias, version from registered_model_aliases")},
            **{f"tag {key} of {name} {version}": value for name, version, key, value in ask(
                "select name, version, key, value from model_version_tags") if key not in TIMED},
        }  # fmt: skip


def _read(database: sqlite3.Connection, run: Recorded) -> Recorded:
    def ask(query: str) -> list[Any]:
        return database.execute(query, (run.id,)).fetchall()

    tags = dict(ask("select key, value from tags where run_uuid = ?"))
    run.journal = tags.get("pretune.id", "")
    counted = Counter(key for (key,) in ask("select key from metrics where run_uuid = ?"))
    models = ask("select status from logged_models where source_run_id = ?")
    run.content = {
        "params": dict(ask("select key, value from params where run_uuid = ?")),
        "tags": sorted(key for key in tags if not UNTOLD.match(key)),
        "metrics": {key: number for key, number in counted.items() if not UNTOLD.match(key)},
        "inputs": len(ask("select input_uuid from inputs where destination_id = ?")),
        "models": sorted(str(status) for (status,) in models),
    }
    return run
