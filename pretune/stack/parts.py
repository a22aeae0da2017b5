"""The parts of a stack: what each runs, where it answers, and what its environment holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretune.stack import accounts, postgres, settings, store
from pretune.stack.server import HOST, answers

CODE = Path(__file__).parents[2]  # the folder that holds the packages pretune and flows
FOREIGN = ("MLFLOW_", "PREFECT_", "PRETUNE_", "AWS_", "PG", "NANIO_")  # of the user's environment: not for servers
MARK = "PRETUNE_STACK"  # the folder of the stack, in the environment of all its processes
POOL = "pretune"
NAMES = ("postgres", "store", "mlflow", "prefect", "worker")
AUTHENTICATION = CODE / "deploy" / "mlflow-auth.ini"
MLFLOW = {  # for every MLflow server that Pretune starts
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that the pages do not need
}


def _nothing(_logs: Path) -> None:
    pass


@dataclass(frozen=True)
class Part:
    """A server of the stack.

    account: arguments of Popen for the user that runs it. before, after: what is done before it starts and once it
    answers, given the folder of logs; both may be done again.
    """

    name: str
    host: str
    port: int
    command: list[str]
    environment: dict[str, str]
    healthy: Callable[[], bool]
    account: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Path], None] = _nothing
    after: Callable[[Path], None] = _nothing

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"{self.host}:{self.port}"


def mlflow_server(host: str, port: int, *more: str) -> list[str]:
    """The command line of an MLflow server with one worker."""
    return [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1", *more]


def groups(folder: Path, values: Mapping[str, str]) -> list[list[Part]]:
    """The parts, in the order in which they start; those of a group need nothing of one another."""
    return [
        [_postgres(folder, values), _store(folder, values)],
        [_mlflow(folder, values), _prefect(folder, values)],
        [_worker(folder, values)],
    ]


def _environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    python_path = os.pathsep.join([str(CODE), os.environ.get("PYTHONPATH", "")])
    return kept | {"PYTHONPATH": python_path, MARK: str(folder), "DO_NOT_TRACK": "1"} | more


def _http(host: str, port: str, path: str) -> Callable[[], bool]:
    return lambda: answers(f"http://{host}:{port}{path}")


def _postgres(folder: Path, values: Mapping[str, str]) -> Part:
    data, log = folder / "postgres", "postgres.log"
    return Part(
        "postgres", HOST, int(values["POSTGRES_PORT"]), postgres.command(data, values), _environment(folder),
        lambda: postgres.is_ready(values), postgres.owner(),
        before=lambda logs: postgres.create(data, values, logs / log),
        after=lambda logs: postgres.create_databases(values, logs / log),
    )  # fmt: skip


def _store(folder: Path, values: Mapping[str, str]) -> Part:
    host, port = values["STACK_HOST"], values["STORE_PORT"]
    keys = {"NANIO_ACCESS_KEY": values["STORE_ACCESS_KEY"], "NANIO_SECRET_KEY": values["STORE_SECRET_KEY"]}
    command = store.command(host, port, folder / "store")
    client = _environment(folder, **settings.store_client(values))
    return Part(
        "store", host, int(port), command, _environment(folder, **keys), _http(host, port, "/"),
        after=lambda logs: store.create_buckets(client, logs / "store.log"),
    )  # fmt: skip


def _mlflow(folder: Path, values: Mapping[str, str]) -> Part:
    host, port = values["STACK_HOST"], values["MLFLOW_PORT"]
    environment = _environment(
        folder,
        **MLFLOW | postgres.client(values) | settings.store_client(values),
        MLFLOW_BACKEND_STORE_URI="postgresql:///mlflow",
        MLFLOW_ARTIFACTS_DESTINATION=f"s3://{settings.BUCKETS[0]}",
        MLFLOW_AUTH_CONFIG_PATH=str(AUTHENTICATION),
        MLFLOW_AUTH_ADMIN_PASSWORD=values["MLFLOW_ADMIN_PASSWORD"],
        MLFLOW_FLASK_SERVER_SECRET_KEY=values["MLFLOW_SECRET_KEY"],
        MLFLOW_SERVER_ALLOWED_HOSTS=",".join(f"{name}:{port}" for name in dict.fromkeys([HOST, "localhost", host])),
    )
    command = mlflow_server(host, int(port), "--serve-artifacts", "--app-name", "basic-auth")
    admin, team = values["MLFLOW_ADMIN_PASSWORD"], values["MLFLOW_TEAM_PASSWORD"]
    return Part(
        "mlflow", host, int(port), command, environment, _http(host, port, "/health"),
        after=lambda _: accounts.ensure(f"http://{host}:{port}", admin, settings.ACCOUNT, team, member=True),
    )  # fmt: skip


def _prefect(folder: Path, values: Mapping[str, str]) -> Part:
    host, port = values["STACK_HOST"], values["PREFECT_PORT"]
    database = {"DRIVER": "postgresql+asyncpg", "HOST": HOST, "PORT": values["POSTGRES_PORT"], "USER": postgres.ROLE,
                "NAME": "prefect", "PASSWORD": values["POSTGRES_PASSWORD"]}  # fmt: skip
    environment = _environment(
        folder,
        **{f"PREFECT_SERVER_DATABASE_{name}": value for name, value in database.items()},
        PREFECT_SERVER_API_AUTH_STRING=values["PREFECT_AUTH_STRING"],
        PREFECT_HOME=str(folder / "prefect"),
    )
    names = [] if host == HOST else ["--name", host]
    command = [sys.executable, "-m", "flows.prefect_server", port, "--host", host, *names]
    return Part("prefect", host, int(port), command, environment, _http(host, port, "/api/health"))


def _worker(folder: Path, values: Mapping[str, str]) -> Part:
    port = values["WORKER_PORT"]
    environment = _environment(
        folder,
        **settings.clients(values),
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_WORKER_WEBSERVER_HOST=HOST,
        PREFECT_WORKER_WEBSERVER_PORT=port,
    )
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        POOL,
        "--type",
        "process",
        "--with-healthcheck",
    ]
    return Part("worker", HOST, int(port), command, environment, _http(HOST, port, "/health"))
