"""What the commands that read the records cost when there are many: `make bench-history`.

Takes a workspace in which two pipeline runs have ended (or makes one, which takes some minutes), adds 100,
1,000 and 10,000 more of them to copies of its MLflow database, and times the commands beside each.

    python benchmarks/history.py [WORKSPACE] [--only 1000]

The added runs are those of the newest pipeline run with other ids, times and hashes: finetuning and what
follows ran in all of them, pretraining in one of ten, the rest was found in the cache. They are older than the real
ones. Of their metrics only the last values are there, not the histories, which no command reads. Each pipeline run has
a version in the registry, as if all had been run with --promote. history_server.py asks a server instead.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from overhead import BIN, call, change, copy_project, timed

HISTORIES = (100, 1_000, 10_000)
REPEATS = 3
MINUTE = 60_000  # ms between two pipeline runs
RAN = {"scratch", "finetune", "label_efficiency", "evaluate"}
OWN = ("pretune.id", "pretune.stage_key", "pretune.status", "pretune.source_run", "mlflow.parentRunId")
HASHES = ("dvc.in.", "dvc.out.")


def main() -> None:
    """Make the histories, and print seconds per command and history."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace", nargs="?", type=Path)
    parser.add_argument("--only", type=int, action="append", help="so many pipeline runs more")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "pretune"
        if asked.workspace:
            subprocess.run(["cp", "--archive", "--reflink=auto", asked.workspace, workspace], check=True)
        else:
            make(workspace)
        gated(commands(workspace)["promote"], workspace)  # the version that the others are like
        first = Path(folder) / "mlflow.db"
        shutil.copy(workspace / "mlflow.db", first)
        table: dict[str, dict[int, float]] = defaultdict(dict)
        for pipelines in (0, *(asked.only or HISTORIES)):
            shutil.copy(first, workspace / "mlflow.db")
            if pipelines:
                began = time.perf_counter()
                fill(workspace / "mlflow.db", pipelines)
                size = (workspace / "mlflow.db").stat().st_size / 1e6
                print(
                    f"{pipelines} pipeline runs added: {size:.0f} MB, {time.perf_counter() - began:.0f} s", flush=True
                )
            for what, command in commands(workspace).items():
                table[what][pipelines] = measured(command, workspace)
                print(f"  {what:<34}{table[what][pipelines]:7.2f} s", flush=True)
    print(f"\n{'seconds, the median of ' + str(REPEATS):<36}" + "".join(f"{n:>9,}" for n in table["trace a model"]))
    for what, seconds in table.items():
        print(f"{what:<36}" + "".join(f"{each:>9.2f}" for each in seconds.values()))


def make(workspace: Path) -> None:
    """A workspace with two pipeline runs of other seeds, the default otherwise but for a short pretraining."""
    copy_project(workspace)
    for seed in (0, 1):
        print(f"running the whole pipeline with seed {seed} (some minutes) ...", flush=True)
        change(workspace, {"seed": seed, "pretrain": {"steps": 100}})
        call([sys.executable, "-m", "cli.app", "run", "--no-prefect"], workspace)


def commands(workspace: Path) -> dict[str, list[str]]:
    """What is timed."""
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database:
        found = database.execute("SELECT run_uuid FROM runs WHERE name = 'evaluate' ORDER BY start_time DESC LIMIT 2")
        newest, other = (run for (run,) in found)
    pretune = [sys.executable, "-m", "cli.app"]
    return {
        "trace a model": [*pretune, "trace", "models/finetuned"],
        "trace data": [*pretune, "trace", "data/raw"],
        "compare": [*pretune, "compare", other, newest],
        "promote": [*pretune, "promote"],
        "plan --quick": [*pretune, "plan", "--quick"],
        "run --no-prefect, nothing to do": [*pretune, "run", "--no-prefect"],
    }


def measured(command: list[str], workspace: Path) -> float:
    """The median of several calls, after one that warms the page cache. The gate may say no: that is an answer."""
    if "promote" in command:
        return statistics.median(gated(command, workspace) for _ in range(REPEATS + 1))
    timed(command, workspace)
    return statistics.median(timed(command, workspace) for _ in range(REPEATS))


def gated(command: list[str], workspace: Path) -> float:
    """Wall-clock seconds of a call that may end with 12."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 12}:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


def fill(path: Path, pipelines: int) -> None:
    """Add so many pipeline runs to a database that MLflow made."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000"):
            database.execute(f"PRAGMA {setting}")
        history = History(database)
        database.execute("BEGIN")
        for start in range(0, pipelines, 500):
            history.add((number, pipelines - number) for number in range(start, min(start + 500, pipelines)))
        history.register(pipelines)
        database.execute("COMMIT")


class History:
    """The newest pipeline run as a template, and what the runs made of it wrote last."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.ids = random.Random(0)  # noqa: S311 - the same each time
        runs = database.execute("SELECT * FROM runs ORDER BY start_time")
        self.columns = [name for name, *_ in runs.description]
        every = [dict(zip(self.columns, run, strict=True)) for run in runs]
        self.tags = {run["run_uuid"]: self._tags(run["run_uuid"]) for run in every}
        pipelines = [run for run in every if self.tags[run["run_uuid"]].get("pretune.kind") == "pipeline"]
        self.parent = pipelines[-1]
        stages = [
            run for run in every if self.tags[run["run_uuid"]].get("mlflow.parentRunId") == self.parent["run_uuid"]
        ]
        self.stages = {run["name"]: run for run in stages}
        self.made = {name: run["run_uuid"] for name, run in self.stages.items()}
        self.keys = {name: self.tags[run]["pretune.stage_key"] for name, run in self.made.items()}
        self.models = {
            run: model for model, run in database.execute("SELECT model_id, source_run_id FROM logged_models")
        }
        self.hashes = {path: md5 for run in self.made.values() for (_, path), md5 in _hashes(self.tags[run]).items()}
        found = database.execute("SELECT name, digest, dataset_uuid FROM datasets")
        self.datasets = {(path, md5): each for path, md5, each in found}
        database.execute("CREATE TEMP TABLE made (run TEXT, template TEXT)")

    def _tags(self, run: str) -> dict[str, str]:
        return dict(self.database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run]))

    def add(self, pipelines: Iterator[tuple[int, int]]) -> None:
        """Add pipeline runs: (number, minutes before the real one)."""
        self.rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for number, before in pipelines:
            start = self.parent["start_time"] - before * MINUTE
            parent = self._run(self.parent, start)
            self._tag(parent, {"pretune.id": f"{start}-{parent[:8]}"})
            ran = RAN | ({"pretrain"} if number % 10 == 0 else set())
            for place, (name, template) in enumerate(self.stages.items(), start=1):
                self._stage(template, start + place * 5_000, parent, ran=name in ran)
        for table, rows in self.rows.items():
            marks = ", ".join("?" * len(rows[0]))
            self.database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - our own tables
        varying = " AND ".join([f"key != '{key}'" for key in OWN] + [f"key NOT LIKE '{key}%'" for key in HASHES])
        for table, only in {"tags": varying, "params": "1", "latest_metrics": "1"}.items():
            head = [column for _, column, *_ in self.database.execute(f"PRAGMA table_info({table})")]
            values = ", ".join("made.run" if column == "run_uuid" else f'"{column}"' for column in head)
            self.database.execute(
                f"INSERT INTO {table} SELECT {values} FROM made JOIN {table} ON run_uuid = template"  # noqa: S608
                f" WHERE {only} ORDER BY made.rowid"
            )
        self.database.execute("DELETE FROM made")

    def register(self, versions: int) -> None:
        """Add so many versions, each of a model of its own, like the one that is there."""
        for table in ("model_versions", "model_version_tags"):
            rows = self.database.execute(f"SELECT * FROM {table} WHERE version = 1")  # noqa: S608
            names = [name for name, *_ in rows.description]
            templates = [dict(zip(names, row, strict=True)) for row in rows]
            marks = ", ".join("?" * len(names))
            self.database.executemany(
                f"INSERT INTO {table} VALUES ({marks})",  # noqa: S608
                (
                    tuple((template | self._other(template, number)).values())
                    for number in range(2, versions + 2)
                    for template in templates
                ),
            )

    @staticmethod
    def _other(template: dict[str, Any], number: int) -> dict[str, Any]:
        """What another version, or its tag, has in place of the template's."""
        return {"version": number} | ({"value": f"m-{number:032x}"} if template.get("key") == "pretune.model" else {})

    def _run(self, template: dict[str, Any], start: int) -> str:
        """A run like the template, but for its tags."""
        run, old = self._id(), template["run_uuid"]
        other = {"run_uuid": run, "start_time": start, "end_time": start + 4_000}
        other["artifact_uri"] = template["artifact_uri"].replace(old, run)
        self.rows["runs"].append(tuple((template | other).values()))
        self.rows["made"].append((run, old))
        return run

    def _stage(self, template: dict[str, Any], start: int, parent: str, *, ran: bool) -> None:
        name, run = template["name"], self._run(template, start)
        tags = {"pretune.id": f"{start}-{run[:8]}", "mlflow.parentRunId": parent}
        tags["pretune.status"] = "executed" if ran else "cached"
        for (kind, path), md5 in _hashes(self.tags[template["run_uuid"]]).items():
            if kind == "dvc.out." and ran:
                self.hashes[path] = self._id() + (".dir" if md5.endswith(".dir") else "")
            elif kind == "dvc.in.":
                self._input(run, path, self.hashes[path])
            tags[kind + path] = self.hashes[path]
        if ran:
            self.made[name], self.keys[name] = run, self._id() * 2
            if template["run_uuid"] in self.models:
                self._model(template["run_uuid"], run)
        else:
            tags["pretune.source_run"] = self.made[name]
        self._tag(run, tags | {"pretune.stage_key": self.keys[name]})
        if model := self.models.get(self.made[name]):
            self.rows["inputs"].append((self._id(), "RUN_OUTPUT", run, "MODEL_OUTPUT", model, 0))

    def _tag(self, run: str, tags: dict[str, str]) -> None:
        self.rows["tags"] += [(key, value, run) for key, value in tags.items()]

    def _input(self, run: str, path: str, md5: str) -> None:
        if (path, md5) not in self.datasets:
            self.datasets[path, md5] = each = self._id()
            source = f'{{"path": "{path}", "md5": "{md5}"}}'
            self.rows["datasets"].append((each, self.parent["experiment_id"], path, md5, "dvc", source, None, None))
        place = self._id()
        self.rows["inputs"].append((place, "DATASET", self.datasets[path, md5], "RUN", run, 0))
        self.rows["input_tags"].append((place, "mlflow.data.context", "input"))

    def _model(self, template: str, run: str) -> None:
        old, new = self.models[template], f"m-{self._id()}"
        row = self.database.execute("SELECT * FROM logged_models WHERE model_id = ?", [old])
        names = [name for name, *_ in row.description]
        values = dict(zip(names, row.fetchone(), strict=True))
        values |= {"model_id": new, "source_run_id": run}
        values["artifact_location"] = values["artifact_location"].replace(old, new)
        self.rows["logged_models"].append(tuple(values.values()))
        self.models[run] = new

    def _id(self) -> str:
        return f"{self.ids.getrandbits(128):032x}"


def _hashes(tags: dict[str, str]) -> dict[tuple[str, str], str]:
    """{(dvc.in. or dvc.out., path): md5}, what was read first."""
    return {(kind, key.removeprefix(kind)): md5 for kind in HASHES for key, md5 in tags.items() if key.startswith(kind)}


if __name__ == "__main__":
    main()
