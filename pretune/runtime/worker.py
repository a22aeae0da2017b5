"""One of several processes that run a stage together; runtime/launcher.py starts them and reads their messages.

Each process writes its messages to a file of its own. The first process writes the outputs and reports progress
and metrics; the others report only how they ended.
"""

from __future__ import annotations

import io
import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

from typing_extensions import override

from pretune.config.params import Params
from pretune.errors import PretuneError
from pretune.lineage.graph import Node
from pretune.process import terminating
from pretune.runtime import monitoring
from pretune.runtime.stage import Stage
from pretune.tracking.journal import EventLog

WORKER = "PRETUNE_WORKER"  # the folder of the order, and of the messages of each attempt
ATTEMPT = "PRETUNE_ATTEMPT"  # how often an engine has started the processes before
ORDER = "order.json"


class WorkerStage(Stage):
    """A stage in one of its processes; the process that started them publishes the outputs."""

    def __init__(self, order: Mapping[str, Any], events: WorkerEvents) -> None:
        super().__init__(
            Path(order["root"]), Node(**order["node"]), order["entry"],
            params=Params.model_validate(order["params"]), run=events, progress=events, fresh=False,
        )  # fmt: skip

    def account(self) -> dict[str, Any]:
        """The paths written and the models made."""
        return {"written": list(self._written), "models": self._models}


class WorkerEvents:
    """The messages of a process, in place of the record and the progress bar. Only the first process reports both."""

    def __init__(self, path: Path, *, first: bool) -> None:
        self._log, self._first = EventLog(path), first
        self.write = self._log.write

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Metrics for the run."""
        if self._first:
            self.write("metrics", values=values, step=step)

    def text(self, name: str, content: str) -> None:
        """An artifact for the run."""
        if self._first:
            self.write("text", name=name, content=content)

    def update(self, done: int, total: int, note: str) -> None:
        """Progress for the display."""
        if self._first:
            self.write("progress", done=done, total=total, note=note)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """The result of a validation for the display."""
        if self._first:
            self.write("validation", step=step, metrics=dict(metrics))

    def warn(self, text: str) -> None:
        """A warning for the display."""
        if self._first:
            self.write("line", text=f"warning: {text}")

    def close(self) -> None:
        """Nothing more will be reported."""
        self._log.close()


class StderrForwarder(io.TextIOBase):
    """Standard error of the first process: forwards what Python writes, line by line, to the user."""

    def __init__(self, events: WorkerEvents) -> None:
        self._events, self._line = events, ""

    @override
    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._events.write("line", text=line)
        return len(text)


def main(name: str, stage_function: Callable[[str], Callable[[Stage], None]]) -> int:
    """Run the stage as the process that torchrun's environment variables describe. Returns the exit code."""
    folder, rank = Path(os.environ[WORKER]), int(os.environ["RANK"])
    with (
        closing(WorkerEvents(folder / os.environ.get(ATTEMPT, "0") / f"{rank}.jsonl", first=rank == 0)) as events,
        redirect_stderr(StderrForwarder(events)) if rank == 0 else nullcontext(),
    ):
        return _work(folder, name, stage_function, events)


def _work(
    folder: Path, name: str, stage_function: Callable[[str], Callable[[Stage], None]], events: WorkerEvents
) -> int:
    try:
        with terminating(), monitoring.system(events.metrics):
            events.write("begin", pid=os.getpid())
            stage = WorkerStage(json.loads((folder / ORDER).read_text(encoding="utf-8")), events)
            stage_function(name)(stage)
            events.write("done", **stage.account())
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun stops the others: let this one report first
        if isinstance(error, PretuneError):
            events.write("error", **error.as_dict())
            return error.exit_code
        events.write("crash", time=time.time(), text=traceback.format_exc())
        return 1
    return 0
