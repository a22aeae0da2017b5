"""`pretune ui`: run the MLflow UI and a Prefect server, on this machine only, until Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from cli.options import open_workspace
from flows.prefect_api import address_file
from flows.prefect_server import HOST, start_server
from pretune.errors import LockedError, WorkspaceError
from pretune.lineage.graph import state_dir
from pretune.process import terminating
from pretune.stack.parts import MLFLOW, mlflow_server
from pretune.stack.server import answers, in_use, stop_group, wait
from pretune.tracking.client import connect, page, tracking_uri


def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
) -> None:
    """Start the MLflow UI and a Prefect server on 127.0.0.1 until Ctrl-C."""
    serve(open_workspace([]), mlflow_port, prefect_port)


def serve(root: Path, mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, print their addresses, stop them on Ctrl-C or SIGTERM.

    If MLFLOW_TRACKING_URI names a server, its address is printed, and no MLflow server is started.
    """
    uri, state = tracking_uri(root), state_dir(root)
    remote = uri.startswith("http")
    if busy := [port for port in ([] if remote else [mlflow_port]) + [prefect_port] if in_use(port)]:
        raise LockedError(
            [f"port {port} is in use" for port in busy],
            f"pretune ui --mlflow-port {mlflow_port + 1} --prefect-port {prefect_port + 1}",
        )
    if "%" in sys.prefix and not remote:
        raise WorkspaceError(
            f"MLflow's server cannot start in {sys.prefix}: it takes the % in that path for a variable",
            "make setup in a folder without % in its path, or set MLFLOW_TRACKING_URI to a server",
        )
    _, experiment = connect(root, state)
    logs = state / "logs"
    api = f"http://{HOST}:{prefect_port}/api"
    with ExitStack() as stack:
        stack.enter_context(terminating())
        prefect = start_server(root, prefect_port, logs / "prefect-ui.log")
        servers = [stack.enter_context(_stopped_after(prefect))]
        if remote:
            print(f"MLflow   {page(uri, experiment)}", flush=True)
        else:
            servers.append(
                stack.enter_context(_stopped_after(_start_mlflow(root, uri, mlflow_port, logs / "mlflow-ui.log")))
            )
            _wait(f"http://{HOST}:{mlflow_port}/health", servers[1], logs / "mlflow-ui.log")
            print(f"MLflow   {page(f'http://{HOST}:{mlflow_port}', experiment)}", flush=True)
        _wait(f"{api}/health", prefect, logs / "prefect-ui.log")
        print(f"Prefect  http://{HOST}:{prefect_port}", flush=True)
        address_file(root).write_text(api, encoding="utf-8")
        stack.callback(address_file(root).unlink, missing_ok=True)
        print("Ctrl-C stops both; they show what `pretune run` in another terminal does", flush=True)
        while all(server.poll() is None for server in servers):
            time.sleep(1)


def _start_mlflow(root: Path, uri: str, port: int, log: Path) -> subprocess.Popen[bytes]:
    store = ["--backend-store-uri", uri, "--default-artifact-root", (root / "mlartifacts").as_uri()]
    with log.open("wb") as file:
        return subprocess.Popen(
            mlflow_server(HOST, port, *store), env=os.environ | MLFLOW, stdout=file, stderr=file,
            stdin=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip


@contextmanager
def _stopped_after(server: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Stop a server, with its process group, at the end of the block."""

    def ended(seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=seconds)
        return server.returncode is not None

    try:
        yield server
    finally:
        stop_group(server.pid, ended)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    if not wait(lambda: answers(url), lambda: server.poll() is None):
        raise WorkspaceError(f"the server did not start; see {log}", "pretune doctor")
