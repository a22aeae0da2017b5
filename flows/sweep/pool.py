"""The processes that run trials: one for each copy of the workspace, each with its share of cores and GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from flows import overrides, schedule
from flows.sweep import slot
from flows.sweep.slot import Request
from pretune import process
from pretune.config.params import Params
from pretune.errors import StageFailedError
from pretune.lineage.graph import Node

INTERRUPTED = "interrupted"
END = 90.0  # seconds that a trial has to stop: its stages have 60


class Channel(Protocol):
    """A process that runs trials, here or on a machine of a cluster: lines go in, lines come out."""

    def write(self, line: str) -> None:
        """Send a line."""

    def readline(self) -> str:
        """The next line; "" if the process has ended."""

    def close(self) -> None:
        """Have the process end, and wait for that."""


Start = Callable[[Path, Path, "Share", Path], Channel]  # home, root, its share of the machine, log


@dataclass(frozen=True)
class Share:
    """What one trial may use."""

    cores: int
    gpus: list[str]


def shares(node: Node, params: Params, parallel: int | None, memory_gb: float | None = None) -> list[Share]:
    """The parts into which the machine is divided: as many trials as fit, or `parallel`, side by side.

    memory_gb: what one trial is known to take; "fits" then concerns memory too.
    """
    names = schedule.gpus()
    needs, cores = schedule.needs(node, params, names), schedule.cores()
    fitting = max(1, len(names) // needs.gpus if needs.gpus else cores // max(1, needs.cores))
    if memory_gb and not needs.gpus:
        import psutil

        fitting = max(1, min(fitting, int(psutil.virtual_memory().available / 1e9 // memory_gb)))
    count = parallel or fitting
    each = needs.gpus
    return [Share(needs.cores, names[k * each : (k + 1) * each] if each else []) for k in range(count)]


class LocalChannel:
    """A slot in a process of this machine."""

    def __init__(self, home: Path, root: Path, share: Share, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "flows.sweep.slot", str(home), str(root), str(share.cores),
                    ",".join(share.gpus),
                ],
                cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, encoding="utf-8",
                env=os.environ | {process.PARENT: str(os.getpid())}, process_group=0,
            )  # fmt: skip

    def write(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def readline(self) -> str:
        """The next line; "" if the process has ended."""
        assert self._process.stdout
        return self._process.stdout.readline()

    def close(self) -> None:
        """Have the process end, and wait for that."""
        assert self._process.stdin
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Worker:
    """A copy of the workspace and the process that runs trials in it, made when it is first needed."""

    def __init__(self, home: Path, state: Path, root: Path, share: Share, start: Start) -> None:
        self._home, self._state, self.root, self._share, self._start = home, state, root, share, start
        self._log = root.with_suffix(".log")
        self._channel: Channel | None = None
        self._running: list[int | str] = []  # key of the request

    @property
    def started(self) -> bool:
        """Whether its process is running."""
        return self._channel is not None

    def copy(self) -> None:
        """Make the copy of the workspace."""
        overrides.make_copy(self._home, self.root, [])
        slot.prepare_state(self.root, self._state)

    def start(self) -> None:
        """Start the process, which ends with the thread that calls this."""
        self._channel = self._start(self._home, self.root, self._share, self._log)

    def run(self, request: Request, on_event: Callable[[dict[str, Any], Worker], None]) -> dict[str, Any]:
        """Run a trial to its end; returns its outcome. StageFailedError if the process ended before."""
        assert self._channel
        self._running = list(request.key)
        self._channel.write(slot.encode(request))
        while line := self._channel.readline():
            event = json.loads(line)
            if event["event"] == "done":
                return dict(event)
            on_event(event, self)
        self._channel, log = None, self._log
        tail = log.read_text(encoding="utf-8").rstrip().splitlines()[-15:] if log.is_file() else []
        raise StageFailedError([f"the process of a trial ended; the end of {log}:", *[f"    {line}" for line in tail]])

    def stop(self, reason: str) -> None:
        """Stop the trial that goes on, if one does."""
        if self._channel and self._running:
            self._channel.write(json.dumps({"stop": reason, "of": self._running}) + "\n")

    def close(self) -> None:
        """End the process and remove the copy."""
        if self._channel:
            self._channel.close()
        shutil.rmtree(self.root, ignore_errors=True)


class Pool:
    """Runs requests on its workers. Use it as a context manager."""

    def __init__(
        self, home: Path, state: Path, folder: Path, parts: Sequence[Share], start: Start = LocalChannel
    ) -> None:
        self._workers = [
            Worker(home, state, folder / "slots" / str(number), share, start) for number, share in enumerate(parts)
        ]
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(INTERRUPTED)
        with ThreadPoolExecutor(len(self._workers)) as threads:
            list(threads.map(Worker.close, self._workers))

    @property
    def size(self) -> int:
        """How many trials run side by side."""
        return len(self._workers)

    def stop(self, reason: str) -> None:
        """Stop all trials, and start no more."""
        self._stopped = True
        for worker in self._workers:
            worker.stop(reason)

    def _start_workers(self, wanted: int) -> None:
        """Start so many processes, as far as there are any; in this thread, for they end with the one that does it."""
        for worker in [worker for worker in self._workers[:wanted] if not worker.started]:
            worker.copy()
            worker.start()

    def run(
        self,
        requests: Sequence[Request],
        skip: Callable[[Request], bool],
        on_event: Callable[[Request, dict[str, Any], Worker], None],
        on_done: Callable[[Request, dict[str, Any]], None],
    ) -> None:
        """Run the requests in order, as workers get free, but those that `skip` says are not needed any more.

        `on_event` and `on_done` are called by one thread at a time. The first error of a worker is raised.
        """
        waiting, turn = deque(requests), threading.Lock()
        errors: list[BaseException] = []

        def work(worker: Worker) -> None:
            while not self._stopped and not errors:
                with turn:
                    while waiting and skip(waiting[0]):
                        waiting.popleft()
                    if not waiting:
                        return
                    request = waiting.popleft()

                def note(event: dict[str, Any], worker: Worker) -> None:
                    with turn:
                        on_event(request, event, worker)  # noqa: B023 - called before the next request is taken

                try:
                    outcome = worker.run(request, note)
                    with turn:
                        on_done(request, outcome)
                except BaseException as error:  # of any kind: it is raised below, in the thread that waits
                    errors.append(error)
                    self.stop(INTERRUPTED)

        self._start_workers(len(requests))
        with ThreadPoolExecutor(len(self._workers)) as threads:
            for future in [threads.submit(work, worker) for worker in self._workers if worker.started]:
                future.result()
        if errors:
            raise errors[0]
