"""What a node of a cluster does for a sweep: it runs the process of a slot. Ray sends this code by value."""

from __future__ import annotations

import platform
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pretune.cluster.nodes import DEVICES, environment


class Relay:
    """Starts `python -m flows.sweep.slot HOME ROOT CORES GPUS` and passes lines. Ray makes an actor of it.

    arguments: HOME, ROOT, CORES. gpus: how many of the node's are for the slot; Ray says which. ours: variables of the
    slot (see pretune/cluster/nodes.py).

    The kernel kills the slot when the thread that started it ends, so that thread stays until the slot has ended.
    """

    def __init__(self, arguments: Sequence[str], gpus: int, log: str, ours: Mapping[str, str]) -> None:
        self._environment = environment(ours, gpus)
        self._command = [sys.executable, "-m", "flows.sweep.slot", *arguments, self._environment[DEVICES]]
        self._root, self._log = arguments[1], log
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._started, self._writing, self._written = threading.Event(), threading.Lock(), 0
        self._process: subprocess.Popen[str] | None = None
        self._lines.put(platform.node())
        threading.Thread(target=self._follow, daemon=True).start()
        self._started.wait()

    def _follow(self) -> None:
        try:
            with Path(self._log).open("w", encoding="utf-8") as file:
                self._process = subprocess.Popen(
                    self._command, cwd=self._root, env=self._environment, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=file, text=True, encoding="utf-8", process_group=0,
                )  # fmt: skip
            self._started.set()
            for line in self._process.stdout or ():
                self._lines.put(line)
            self._process.wait()
        finally:
            self._started.set()
            self._lines.put("")

    def write(self, first: int, lines: Sequence[str]) -> None:
        """Send lines to the slot, but those that it has. first: the number of the first of them.

        Calls may arrive in another order than they were made.
        """
        with self._writing, suppress(BrokenPipeError, ValueError):  # it has ended, or is closed
            for number, line in enumerate(lines, first):
                if number >= self._written and self._process and self._process.stdin:
                    self._written = number + 1
                    self._process.stdin.write(line)
                    self._process.stdin.flush()

    def lines(self) -> list[str]:
        """Wait for lines: the name of the node, then those of the slot, then "" when it has ended."""
        found = [self._lines.get()]
        while not self._lines.empty():
            found.append(self._lines.get())
        return found

    def close(self, seconds: float) -> None:
        """Have the slot end, and wait for that; after so many seconds it is killed."""
        if not self._process or not self._process.stdin:
            return
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
