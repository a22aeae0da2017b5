"""One machine's part of a stage that Slurm or Ray runs: starts torchrun, and stops its processes when it has to end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pretune.config.files import write_atomically
from pretune.config.launch import LaunchParams
from pretune.process import stop_signals
from pretune.runtime.engines.job import ALIVE, STOP, Task
from pretune.runtime.engines.local import start_torchrun, stop_processes
from pretune.runtime.worker import ATTEMPT, ORDER, WORKER
from pretune.tracking import journal

AGAIN = 75  # the exit code of work that may go on from its checkpoint: it was interrupted, or lost a machine
STOPPED = 143
PATIENCE = 300.0  # seconds without a sign of life of the process that waits, before the work is stopped
FAILS_IN = 10.0  # seconds for processes to tell why they fail, once another machine has failed
POLL_EVERY = 0.3  # seconds
SYSTEM = "system/"  # the beginning of the names of metrics that are not of training
INTERFACE = "GLOO_SOCKET_IFNAME"


def run(machine: int, attempt: int, address: str) -> None:
    """Run the processes of this machine until they end, and write the exit code down.

    machine: its number. attempt: how often the work has been started before. address: where other machines find it.
    """
    folder = Path(os.environ[WORKER])
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    launch, name = LaunchParams.model_validate(order["params"]["launch"]), order["node"]["name"]
    threads = order["params"]["threads"]
    task = Task(Path(order["root"]), name, launch, threads, folder, folder / "log", print, machine)
    _Agent(task, folder / str(attempt)).run(address)


def outcome(attempt: int) -> int:
    """The exit code of an attempt that has ended: AGAIN if it was interrupted, or if a machine was lost as it trained.

    A machine is lost if its agent did not write down how it ended.
    """
    folder = Path(os.environ[WORKER])
    launch = json.loads((folder / ORDER).read_text(encoding="utf-8"))["params"]["launch"]
    ended = codes(folder / str(attempt))
    if AGAIN in ended.values():
        return AGAIN
    if len(ended) < launch["nodes"]:
        return 1 if reached(folder / str(attempt)) is None else AGAIN
    return max(ended.values())


def codes(folder: Path) -> dict[int, int]:
    """{machine: exit code} of those that have ended in the attempt whose messages lie in `folder`."""
    return {int(path.stem): int(path.read_text(encoding="utf-8")) for path in folder.glob("*.code")}


def reached(folder: Path) -> int | None:
    """The last step of training that an attempt has told; None if it has not trained."""
    told = [message for message in _messages(folder, 0) if message["event"] == "metrics"]
    steps = [each["step"] for each in told if not all(name.startswith(SYSTEM) for name in each["values"])]
    return max(steps, default=None)


class _Agent:
    """The agent of a machine. messages: the folder of the attempt."""

    def __init__(self, task: Task, messages: Path) -> None:
        self.task, self.messages = task, messages
        self._seen, self._since = 0.0, time.monotonic()

    def run(self, address: str) -> None:
        """Start torchrun, wait for it, and write down how it ended."""
        self.messages.mkdir(exist_ok=True)
        with stop_signals(second_kills=False) as signals:
            meeting = self._meet(address, signals)
            code = self._work(meeting, address, signals) if meeting is not None else self._why(signals)
            write_atomically(self.messages / f"{self.task.machine}.code", str(code))
            while not code and 0 not in codes(self.messages) and not self._abandoned:
                time.sleep(POLL_EVERY)  # the first machine ends last: what comes after it is given up

    def _meet(self, address: str, signals: list[int]) -> str | None:
        """HOST:PORT on the first machine, which writes it down; None if the work has to stop before."""
        if self.task.launch.nodes == 1:
            return ""
        path = self.messages / "meeting"
        if self.task.machine == 0:
            with socket.socket() as free:
                free.bind(("", 0))
                write_atomically(path, f"{address}:{free.getsockname()[1]}")
        while not path.exists():
            if self._why(signals):
                return None
            time.sleep(POLL_EVERY)
        return path.read_text(encoding="utf-8")

    def _work(self, meeting: str, address: str, signals: list[int]) -> int:
        """Wait for torchrun. Once the work has to stop, its processes save and end."""
        variables = {ATTEMPT: self.messages.name} | _interface(address)
        child, why = start_torchrun(self.task, meeting, variables, sys.stderr), 0
        while child.poll() is None:
            if not why and (why := self._why(signals)):
                self._stop(child, save=why != 1)
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_EVERY)
        return why or min(abs(child.returncode), 1)

    def _why(self, signals: list[int]) -> int:
        """Why the work has to stop: as an exit code; 0 if it does not. 1: it cannot go on together."""
        if (self.task.folder / STOP).exists() or self._abandoned:
            return STOPPED
        if signals:
            return AGAIN
        replaced = self.messages.with_name(str(int(self.messages.name) + 1)).exists()  # this machine was cut off
        return int(replaced or any(code not in {0, AGAIN, STOPPED} for code in codes(self.messages).values()))

    @property
    def _abandoned(self) -> bool:
        """Whether nobody has waited for the work for a while."""
        with suppress(OSError):  # a file system across a network may not answer once
            seen = (self.task.folder / ALIVE).stat().st_mtime
            if seen != self._seen:  # the clocks of two machines differ: only a change counts
                self._seen, self._since = seen, time.monotonic()
        return time.monotonic() - self._since > PATIENCE

    def _stop(self, child: subprocess.Popen[bytes], *, save: bool) -> None:
        """Send SIGTERM to the processes of this machine, which save together; without the others they fail, or hang."""
        first, number = self.task.machine * self.task.launch.processes, self.task.launch.processes
        begun = [m["pid"] for rank in range(first, first + number) for m in _messages(self.messages, rank)[:1]]
        if save:
            stop_processes(child, begun, number)
            return
        with suppress(subprocess.TimeoutExpired):
            child.wait(FAILS_IN)
        child.kill()


def _messages(folder: Path, rank: int) -> list[dict[str, Any]]:
    """What a process has told, first that it has begun."""
    path = folder / f"{rank}.jsonl"
    return journal.read(path, 0)[0] if path.exists() else []


def _interface(address: str) -> dict[str, str]:
    """The variable that has gloo use the interface with this address: a machine's own name may lead to another."""
    names = [name for name, found in psutil.net_if_addrs().items() if address in [each.address for each in found]]
    return {INTERFACE: names[0]} if names and INTERFACE not in os.environ else {}
