"""`pretune ui`: the MLflow UI and a Prefect server, on this machine only, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from pretune.errors import LockedError, WorkspaceError
from pretune.lineage import state_dir
from pretune.process import terminating
from pretune.tracking import connect, tracking_uri

from flows.prefect_env import address_file, server_settings

HOST = "127.0.0.1"
START = 120.0  # seconds that a server may take to answer


def serve(root: Path, mlflow_port: int, prefect_port: int) -> None:
    """Start both servers, print their addresses, stop them on Ctrl-C or SIGTERM."""
    busy = [port for port in (mlflow_port, prefect_port) if _in_use(port)]
    if busy:
        raise LockedError(
            [f"port {port} is in use" for port in busy],
            f"pretune ui --mlflow-port {mlflow_port + 1} --prefect-port {prefect_port + 1}",
        )
    state = state_dir(root)
    connect(root, state)
    (state / "logs").mkdir(parents=True, exist_ok=True)
    api = f"http://{HOST}:{prefect_port}/api"
    environment = os.environ | server_settings(root) | {"PREFECT_UI_API_URL": api, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    servers: list[subprocess.Popen[bytes]] = []
    try:
        with terminating():
            servers.append(_start(state, "mlflow", environment, [
                "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
                "--backend-store-uri", tracking_uri(root),
                "--default-artifact-root", (root / "mlartifacts").as_uri(),
            ]))  # fmt: skip
            servers.append(
                _start(state, "prefect", environment, ["server", "start", "--host", HOST, "--port", str(prefect_port)])
            )
            _wait(f"http://{HOST}:{mlflow_port}/health", servers[0], state / "logs" / "mlflow-ui.log")
            print(f"MLflow   http://{HOST}:{mlflow_port}", flush=True)
            _wait(f"{api}/health", servers[1], state / "logs" / "prefect-ui.log")
            print(f"Prefect  http://{HOST}:{prefect_port}", flush=True)
            address_file(root).write_text(api, encoding="utf-8")
            print("Ctrl-C stops both; `pretune run` in another terminal shows up in them at once", flush=True)
            while all(server.poll() is None for server in servers):
                time.sleep(1)
    finally:
        address_file(root).unlink(missing_ok=True)
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def _start(state: Path, tool: str, environment: dict[str, str], arguments: list[str]) -> subprocess.Popen[bytes]:
    with (state / "logs" / f"{tool}-ui.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", tool, *arguments], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise WorkspaceError(f"the server did not start; see {log}", "pretune doctor")


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
