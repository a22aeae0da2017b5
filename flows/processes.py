"""The processes of stages: `dvc repro` of one stage each, started, followed and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.forkserver import Forked, ForkServer
from pretune.errors import StageFailedError
from pretune.lineage.graph import Node
from pretune.runtime import progress
from pretune.runtime.progress import RunDisplay

GRACE = 60.0  # seconds that a stage has to stop by itself: training finishes its step and writes a checkpoint
DEFAULT_TIMEOUT = 86_400.0  # seconds
LOG_TAIL = 15  # lines of the log that are shown after a crash
Child = Forked | subprocess.Popen[str]


class StageProcesses:
    """The processes of a pipeline run; several threads may start one each.

    `warm_stages` are those that will run: a fork server imports what they need, unless there is a `server` already.
    Close it after use.
    """

    def __init__(
        self, root: Path, state: Path, display: RunDisplay, *, prefect_run: str, warm_stages: list[str],
        server: ForkServer | None = None,
    ) -> None:  # fmt: skip
        self._logs, self._display = state / "logs", display
        self._environment = stage_environment(state, prefect_run)
        self._owns_server = server is None
        self._server = server or ForkServer(root, self._environment, warm_stages, self._logs / "forkserver.log")
        self._running: dict[str, Child] = {}
        self._stopping = threading.Event()

    def start(self, module: str, *arguments: str, **variables: str) -> Child:
        """Start `python -m module arguments`, with `variables` added to its environment."""
        return self._server.start(module, *arguments, environment=self._environment | variables)

    def repro(self, node: Node, **variables: str) -> None:
        """Run `dvc repro` for one stage to its end. Raises StageFailedError."""
        log = self._logs / f"{node.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        timeout = float(node.meta.get("timeout", DEFAULT_TIMEOUT))
        if self._stopping.is_set():
            raise StageFailedError(f"{node.name}: not started, the run is being stopped")
        command = ["pretune.lineage.dvc", "--wait-for-lock", "repro", "--single-item", node.name]
        with self.start(*command, **variables) as child:
            self._running[node.name] = child
            if self._stopping.is_set():  # since the check above: a start may take seconds
                _signal_group(child, signal.SIGKILL)
            alarm = threading.Timer(timeout, _signal_group, (child, signal.SIGKILL))
            alarm.start()
            try:
                error = self._follow(node.name, child, log)
            finally:
                alarm.cancel()
                self._running.pop(node.name, None)
        if child.returncode:
            raise _failure(node.name, error, log, timed_out=alarm.finished.is_set() and child.returncode == -9)

    def stop_for_good(self) -> None:
        """Stop, and start no stage afterwards."""
        self._stopping.set()
        self.stop()

    def stop(self) -> None:
        """End all running stages: SIGINT, which DVC ignores and the stage obeys, and after GRACE seconds SIGKILL."""
        running = list(self._running.values())
        for child in running:
            _signal_group(child, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        for child in running:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(child, signal.SIGKILL)

    def close(self) -> None:
        """End the fork server, if it is our own, and what it has started."""
        if self._owns_server:
            self._server.close()

    def _follow(self, name: str, child: Child, log: Path) -> dict[str, Any] | None:
        """Pass the messages of a stage to the display, all else to its log. Returns the error that it reported."""
        error = None
        assert child.stdout is not None
        with log.open("w", encoding="utf-8") as file:
            for line in child.stdout:
                message = progress.message(line)
                if message is None:
                    file.write(line)
                elif message["event"] == "error":
                    error = message
                elif message["event"] == "validation":
                    self._display.validated(name, message["step"], message["metrics"])
                elif message["event"] == "warning":
                    self._display.warn(f"{name}: {message['text']}")
                else:
                    self._display.progress(name, message["done"], message["total"], message["note"])
        return error


def reported_error(name: str, error: Mapping[str, Any]) -> StageFailedError:
    """The error that a stage reported (see PretuneError.as_dict). A retry would repeat it."""
    failed = StageFailedError([f"{name}: {problem}" for problem in error["problems"]], error["next_step"])
    failed.exit_code, failed.retryable = error["exit_code"], False
    return failed


def _failure(name: str, error: Mapping[str, Any] | None, log: Path, *, timed_out: bool) -> StageFailedError:
    if error:
        return reported_error(name, error)
    if timed_out:
        return StageFailedError(f"{name}: stopped after its timeout (meta.timeout in dvc.yaml)", "pretune run")
    tail = log.read_text(encoding="utf-8").rstrip().splitlines()[-LOG_TAIL:]
    return StageFailedError([f"{name}: failed; the end of {log}:", *[f"    {line}" for line in tail]], "pretune run")


def stage_environment(state: Path, prefect_run: str) -> dict[str, str]:
    """The environment of the processes of stages."""
    folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": os.pathsep.join([folder, os.environ.get("PATH", "")]),
        "PRETUNE_STATE": str(state),
        "PRETUNE_PREFECT_RUN": prefect_run,
        progress.PIPE: "1",
        "DVC_NO_ANALYTICS": "1",
    }


def _signal_group(child: Child, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
