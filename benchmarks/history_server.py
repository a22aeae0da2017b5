"""The same as history.py of an MLflow server on PostgreSQL: `make bench-history-server POSTGRES=postgresql://…`.

    python benchmarks/history_server.py postgresql://USER:PASSWORD@HOST/postgres [WORKSPACE] [--only 1000]

Makes a database for each history beside the one that is named, moves the rows that history.py makes there, starts
MLflow's server on each, and asks them in turn: what else the machine does weighs on all of them. The user has to be
allowed to create databases; they are dropped at the end. Beside the time on the clock stands that of the processors, of
command, server and database together, which does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import history
import psutil
import sqlalchemy

REPEATS = 5


def main() -> None:
    """Make the histories, and print the median seconds of each command on each, and the ratio of last to first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("postgres", help="address of a PostgreSQL database")
    parser.add_argument("workspace", nargs="?", type=Path)
    parser.add_argument("--only", type=int, action="append", help="so many pipeline runs more")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        first = Path(folder) / "first"
        if asked.workspace:
            subprocess.run(["cp", "--archive", "--reflink=auto", asked.workspace, first], check=True)
        else:
            history.make(first)
        history.gated(history.commands(first)["promote"], first)  # the version that the others are like
        places: dict[int, tuple[Path, str]] = {}
        for pipelines in (0, *(asked.only or history.HISTORIES)):
            workspace = Path(folder) / f"with-{pipelines}" / "pretune"
            database = stack.enter_context(new_database(asked.postgres, f"pretune_history_{pipelines}"))
            places[pipelines] = workspace, stack.enter_context(served(first, workspace, database, pipelines))
        compare(first, places)


def compare(first: Path, places: dict[int, tuple[Path, str]]) -> None:
    """Time each command on each history in turn. places: {pipeline runs: workspace, address of its server}."""
    commands = history.commands(first)
    table: dict[str, dict[int, list[tuple[float, float]]]] = {what: defaultdict(list) for what in commands}
    for number in range(REPEATS + 1):  # the first of each warms the caches
        for what, command in commands.items():
            for pipelines, (workspace, server) in places.items():
                os.environ["MLFLOW_TRACKING_URI"] = server
                began = processors(server)
                seconds = once(command, workspace)
                if number:
                    table[what][pipelines].append((seconds, processors(server) - began))
    for kind, title in enumerate(("on the clock", "of processors")):
        print(f"\n{'seconds ' + title:<36}" + "".join(f"{n:>9,}" for n in places) + "    ratio")
        for what, measured in table.items():
            medians = [statistics.median(one[kind] for one in each) for each in measured.values()]
            print(f"{what:<36}" + "".join(f"{each:>9.2f}" for each in medians) + f"{medians[-1] / medians[0]:>9.2f}")


def processors(server: str) -> float:
    """Seconds that the processors have worked for commands that have ended, MLflow's server and PostgreSQL."""
    ended, port = os.times(), server.rpartition(":")[2]
    seconds = ended.children_user + ended.children_system
    for process in psutil.process_iter(["cmdline", "cpu_times"]):
        words = process.info["cmdline"] or []
        if port in words or any("pretune_history_" in word for word in words):
            seconds += process.info["cpu_times"].user + process.info["cpu_times"].system
    return seconds


def once(command: list[str], workspace: Path) -> float:
    """Seconds of one call."""
    return history.gated(command, workspace) if "promote" in command else history.timed(command, workspace)


@contextmanager
def new_database(postgres: str, name: str) -> Iterator[str]:
    """An empty database during the block; its address."""
    url = sqlalchemy.make_url(postgres)
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        alone = f"ALTER DATABASE {name} SET max_parallel_workers_per_gather = 0"  # whose time would not be seen
        connection.execute(sqlalchemy.text(alone))
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(sqlalchemy.text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@contextmanager
def served(first: Path, workspace: Path, database: str, pipelines: int) -> Iterator[str]:
    """A copy of a workspace, whose records, and so many more pipeline runs, a server has; the server's address."""
    began = time.perf_counter()
    shutil.copytree(first, workspace, symlinks=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    host, port = address.split(":")
    store = ["--backend-store-uri", database, "--artifacts-destination", (workspace / "mlartifacts").as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", "1", *store]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = workspace.parent / "mlflow.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, env=os.environ | quiet, stdout=file, stderr=file, process_group=0)
    try:
        wait(f"http://{address}/health", server, log)
        if pipelines:
            history.fill(workspace / "mlflow.db", pipelines)
        move(workspace / "mlflow.db", database)
        print(f"{pipelines} pipeline runs more: {time.perf_counter() - began:.0f} s", flush=True)
        yield f"http://{address}"
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers: it has created its tables by then."""
    while server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    sys.exit(log.read_text(encoding="utf-8"))


def move(source: Path, database: str) -> None:
    """Move all rows of MLflow's SQLite database into one that has the tables, and its artifacts behind the server."""
    engine = sqlalchemy.create_engine(database)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with closing(sqlite3.connect(source)) as lite, closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        ((artifacts,),) = lite.execute("SELECT artifact_location FROM experiments WHERE name = 'pretune'")
        for table in reversed(tables.sorted_tables):
            if table.name != "alembic_version":
                cursor.execute(f'DELETE FROM "{table.name}"')  # noqa: S608 - MLflow's tables
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                copy_table(lite, cursor, table, artifacts)
        connection.commit()
        connection.driver_connection.autocommit = True
        cursor.execute("VACUUM ANALYZE")
    engine.dispose()
    source.unlink()


def copy_table(lite: sqlite3.Connection, cursor: Any, table: sqlalchemy.Table, artifacts: str) -> None:
    """Copy the rows of a table. A place of artifacts becomes one behind the server."""
    head = ", ".join(f'"{column.name}"' for column in table.columns if column.computed is None)
    rows = lite.execute(f'SELECT {head} FROM "{table.name}"')  # noqa: S608 - MLflow's tables
    with cursor.copy(f'COPY "{table.name}" ({head}) FROM STDIN') as target:
        for row in rows:
            target.write_row([behind(value, artifacts) if isinstance(value, str) else value for value in row])


def behind(value: str, artifacts: str) -> str:
    """An address as the server gives it."""
    return f"mlflow-artifacts:/{value.removeprefix(artifacts).lstrip('/')}" if value.startswith(artifacts) else value


if __name__ == "__main__":
    main()
