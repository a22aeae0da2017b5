"""An MLflow server on this machine, which all disturbed workspaces share."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.end_to_end.conftest import Clone

PATIENCE = 300.0  # seconds until it has to answer
SHORT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class MLflow:
    """A server whose database and artifacts are in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.database = folder / "mlflow.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2],
            "--backend-store-uri", f"sqlite:///{self.database}", "--workers", "1",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=5).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise TimeoutError(f"{self.address} does not answer")

    def close(self) -> None:
        """End it and its worker."""
        self._process.terminate()
        self._process.wait()

    def environment(self, clone: Clone) -> dict[str, str]:
        """The variables of a command that records there, with an experiment for each clone, and loses patience soon."""
        return SHORT | {"MLFLOW_TRACKING_URI": self.address, "MLFLOW_EXPERIMENT_NAME": clone.root.parent.name}
