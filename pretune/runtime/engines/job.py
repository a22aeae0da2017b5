"""A stage that an engine runs, as the process that waits for it sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pretune.config.launch import LaunchParams

STOP, ALIVE = "stop", "alive"  # files of the shared folder
ALIVE_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Task:
    """The stage `name` of the workspace `root`, in `launch.processes` processes on each of `launch.nodes` machines.

    folder: shared by all machines. tell: shows the user a line. machine: the number of this one.
    """

    root: Path
    name: str
    launch: LaunchParams
    threads: int
    folder: Path
    log: Path
    tell: Callable[[str], None]
    machine: int = 0


class Job(Protocol):
    """The processes that an engine has started, on all its machines."""

    def wait(self, seconds: float) -> int | None:
        """Wait for the end, at most so long; the exit code, None if they go on. Raises StageFailedError."""

    def stop(self, pids: Collection[int]) -> None:
        """Have the processes save and end. pids: of those on this machine that have begun."""

    def kill(self) -> None:
        """End them at once, if they have not ended."""


@dataclass
class Lease:
    """Tells the agents of other machines that somebody waits for them, and when to stop."""

    folder: Path
    _touched: float = field(default=-ALIVE_EVERY, init=False)

    def renew(self) -> None:
        """Touch `alive`, at most once in ALIVE_EVERY."""
        if time.monotonic() - self._touched >= ALIVE_EVERY:
            self._touched = time.monotonic()
            (self.folder / ALIVE).touch()

    def stop(self) -> None:
        """Have all agents stop their processes."""
        (self.folder / STOP).touch()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return (self.folder / STOP).exists()
