"""Processes that die with their parent, and locks that die with their process."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pretune.errors import LockedError, TerminatedError

PARENT = "PRETUNE_PARENT_PID"
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that happens.

    Where there is no such call (macOS), a thread looks once a second. A parent that was gone
    before the call is found by the pid that it left in the environment.
    """
    parent = os.getppid()
    expected = os.environ.pop(PARENT, None)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent or (expected and int(expected) != parent):
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def terminating() -> Iterator[None]:
    """Turn SIGTERM into TerminatedError, so that what is open gets closed; a second one kills."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise TerminatedError("stopped by SIGTERM", "pretune run   (goes on where it stopped)")

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignored"
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def lock(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `path` alone; the kernel lets go when this process ends.

    Where another process holds it: wait, or raise LockedError at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise held(path, what) from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "since": time.strftime("%H:%M:%S")}, file)
        file.flush()
        yield
        file.truncate(0)


def held(path: Path, what: str) -> LockedError:
    """The error that says who holds the lock at `path`."""
    return LockedError(f"{what} is already running{_holder(path)}", "wait for it to end, or stop that process")


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at `path`."""
    if not path.exists():
        return False
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f" (process {holder['pid']}, since {holder['since']})"
