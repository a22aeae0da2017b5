"""The engine `local`: torchrun on this machine, and by hand on others.

`python -m pretune.runtime.engines.local …` is torchrun, except that it dies with the process that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import TextIO

from pretune.process import PARENT, die_with_parent
from pretune.runtime.engines.job import Task
from pretune.runtime.worker import WORKER


class LocalJob:
    """torchrun and its processes on this machine."""

    def __init__(self, task: Task) -> None:
        self._processes = task.launch.processes
        environment = {}
        if task.launch.nodes == 1 and sys.platform == "linux":
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # whatever this machine's name resolves to: nothing leaves it
        with task.log.open("w", encoding="utf-8") as log:
            self._child = start_torchrun(task, task.launch.rendezvous, environment, log)

    def wait(self, seconds: float) -> int | None:
        """As Job says."""
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)
        return self._child.returncode

    def stop(self, pids: Collection[int]) -> None:
        """As Job says."""
        stop_processes(self._child, pids, self._processes)

    def kill(self) -> None:
        """End torchrun, and with it the processes."""
        self._child.kill()
        self._child.wait()


def start_torchrun(task: Task, meeting: str, environment: dict[str, str], log: TextIO) -> subprocess.Popen[bytes]:
    """Start the processes of one machine. meeting: HOST:PORT of the first one, if there are several."""
    launch = task.launch
    host, _, port = meeting.rpartition(":")
    several = [f"--nnodes={launch.nodes}", f"--node-rank={task.machine}", f"--master-addr={host}"]
    machines = ["--standalone"] if launch.nodes == 1 else [*several, f"--master-port={port}"]
    arguments = [*machines, f"--nproc-per-node={launch.processes}", "--module", "tasks", task.name]
    variables = {WORKER: str(task.folder), PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(task.threads)}
    return subprocess.Popen(
        [sys.executable, "-m", "pretune.runtime.engines.local", *arguments],
        cwd=task.root, env=os.environ | variables | environment,
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip


def stop_processes(child: subprocess.Popen[bytes], pids: Collection[int], number: int) -> None:
    """Send SIGTERM to the processes themselves: torchrun, the child, would kill them after half a minute.

    While some of the `number` of them have not begun, no work can be lost, and torchrun is killed.
    """
    if len(pids) < number:
        child.kill()
        return
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def main(arguments: list[str]) -> None:
    """Run torchrun in this process, which dies with its parent, as its own processes die with it."""
    die_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.run import main as torchrun

    torchrun(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
