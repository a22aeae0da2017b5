"""Servers on this machine: whether a port is free, whether they answer, and how they are stopped.

`python -m pretune.stack.server URL` ends with 0 if a server answers there: the health check of containers.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

HOST = "127.0.0.1"
START = 120.0  # seconds that a server may take to start
GRACE = 15.0  # seconds that it may take to end before it is killed
LAST = 15  # lines of a log in a message


def in_use(port: int, host: str = HOST) -> bool:
    """Whether something listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def answers(url: str) -> bool:
    """Whether a server answers at `url`, if only by asking who one is."""
    try:
        with urlopen(url, timeout=2):
            return True
    except HTTPError as error:
        return error.code in {401, 403}
    except (URLError, OSError):
        return False


def wait(healthy: Callable[[], bool], running: Callable[[], bool]) -> bool:
    """Wait until a server is healthy. False if it ends or takes longer than START."""
    deadline = time.monotonic() + START
    while running() and time.monotonic() < deadline:
        if healthy():
            return True
        time.sleep(0.1)
    return False


def stop_group(pid: int, ended: Callable[[float], bool], first: signal.Signals = signal.SIGTERM) -> None:
    """Stop a process that leads a group, and then what is left of the group.

    ended: waits at most so many seconds for the leader; whether it has ended.
    """
    with suppress(ProcessLookupError):
        os.killpg(pid, first)
        ended(GRACE)
        os.killpg(pid, signal.SIGKILL)  # those that outlived it
        ended(GRACE)


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, without empty ones."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return [line for line in text.splitlines() if line.strip()][-LAST:]


if __name__ == "__main__":
    sys.exit(not answers(sys.argv[1]))
