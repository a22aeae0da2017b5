"""One of several processes that carry out a stage together; `pretune/launch.py` starts them and hears what they say.

What they say are lines of JSON, in a file for each of them. The first process writes the outputs
and tells progress and metrics; the others tell only how they ended.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pretune.errors import PretuneError
from pretune.lineage import Node
from pretune.params import Params
from pretune.process import terminating
from pretune.stage import Stage

if TYPE_CHECKING:
    from pretune.journal import Run

WORKER = "PRETUNE_WORKER"  # the folder in which the processes of this machine find their order, and say what they say
ORDER = "order.json"


class Part(Stage):
    """A stage as one of its processes sees it: what it writes is published by the process that started it."""

    def __init__(self, order: Mapping[str, Any], messages: Messages) -> None:
        params = Params.model_validate(order["params"])
        run = cast("Run", messages)  # of a run, a stage function uses `metrics` only
        super().__init__(
            Path(order["root"]), Node(**order["node"]), order["entry"],
            params=params, run=run, progress=messages, fresh=False,
        )  # fmt: skip

    def account(self) -> dict[str, Any]:
        """What has been written."""
        return {"written": list(self._written), "models": self._models}


class Messages:
    """What a process says, from any thread. It stands in for run and progress bar; only the first one's counts."""

    def __init__(self, path: Path, *, first: bool) -> None:
        self._file, self._first, self._writing = path.open("a", encoding="utf-8"), first, threading.Lock()

    def send(self, event: str, **content: Any) -> None:
        """Append a line."""
        line = json.dumps({"event": event, **content})
        with self._writing:
            self._file.write(line + "\n")
            self._file.flush()

    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """See Run."""
        if self._first:
            self.send("metrics", values=values, step=step)

    def update(self, done: int, total: int, note: str) -> None:
        """See Progress."""
        if self._first:
            self.send("progress", done=done, total=total, note=note)

    def close(self) -> None:
        """Nothing more will be said."""
        self._file.close()


class Errors(io.TextIOBase):
    """Standard error of the first process: what Python writes there is for the user, line by line."""

    def __init__(self, messages: Messages) -> None:
        self._messages, self._line = messages, ""

    def write(self, text: str) -> int:
        """Pass on whole lines."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._messages.send("line", text=line)
        return len(text)


def main(name: str, function: Callable[[str], Callable[[Stage], None]]) -> int:
    """Carry out the stage as the process that torchrun's variables describe; return the exit code."""
    folder, rank = Path(os.environ[WORKER]), int(os.environ["RANK"])
    with (
        closing(Messages(folder / f"{rank}.jsonl", first=rank == 0)) as messages,
        redirect_stderr(Errors(messages)) if rank == 0 else nullcontext(),
    ):
        return _work(folder, name, function, messages)


def _work(folder: Path, name: str, function: Callable[[str], Callable[[Stage], None]], messages: Messages) -> int:
    try:
        with terminating():
            messages.send("begin", pid=os.getpid())
            stage = Part(json.loads((folder / ORDER).read_text(encoding="utf-8")), messages)
            function(name)(stage)
            messages.send("done", **stage.account())
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends the others when one has ended: let this be said
        if isinstance(error, PretuneError):
            messages.send("error", **error.as_dict())
            return error.exit_code
        messages.send("crash", time=time.time(), text=traceback.format_exc())
        return 1
    return 0
