"""Processes that die with their parent, and locks that die with their process."""

from __future__ import annotations

import atexit
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
from typing import NoReturn

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


def fork() -> int:
    """os.fork; the new process dies with this one. To be called in the main thread: with that it dies."""
    os.environ[PARENT] = str(os.getpid())
    pid = os.fork()
    if not pid:
        die_with_parent()
    os.environ.pop(PARENT, None)
    return pid


def leave(code: int) -> NoReturn:
    """End as Python does, but do not take apart all that was imported: that takes half a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def show(command: list[str]) -> None:
    """Have `ps` show `command` for this process, as far as it was started with one as long (Linux)."""
    status = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(status[45]), int(status[46])  # where the arguments lie: proc(5) counts from the name on
    text = "\0".join(command).encode()[: end - start - 1]
    if start:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


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
