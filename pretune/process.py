"""Processes that die with their parent, signal handlers, and locks that end with their process."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pretune.errors import LockedError, TerminatedError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PARENT = "PRETUNE_PARENT_PID"
PR_SET_PDEATHSIG = 1
NO_BARS = {  # of libraries, which read these when they are imported: progress is told in one way
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "true",
}


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that happens.

    On systems without such a call (macOS) a thread checks once a second. The parent leaves its pid in the
    environment (PARENT): if this process has another parent, the former has ended already.
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


def reach_loopback_directly() -> None:
    """Have every client in this process, and in those that it starts, ask no proxy for addresses on this machine."""
    named = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if named.strip() == "*":  # no proxy for any host; together with others it would be a host's name
        return
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))


def fork() -> int:
    """os.fork; the new process dies with the thread that calls this, so call it in the main thread."""
    os.environ[PARENT] = str(os.getpid())
    pid = os.fork()
    if not pid:
        die_with_parent()
    os.environ.pop(PARENT, None)
    return pid


def leave(code: int) -> NoReturn:
    """End the process as Python does, without tearing down modules, which takes half a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def show(command: list[str]) -> None:
    """Have `ps` show `command` for this process, cut to the length of its own command line (Linux)."""
    status = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(status[45]), int(status[46])  # addresses of the arguments; see proc(5)
    text = "\0".join(command).encode()[: end - start - 1]
    if start:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


@contextmanager
def terminating() -> Iterator[None]:
    """Turn SIGTERM into TerminatedError, so that context managers exit; a second SIGTERM kills."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise TerminatedError("stopped by SIGTERM", "pretune run   (continues where it stopped)")

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignored"
    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def stop_signals(handle: Callable[[int], None] | None = None, *, second_kills: bool = True) -> Iterator[list[int]]:
    """Handle SIGTERM and SIGINT until the end of the block; yields the list of the signals received, in their order.

    A signal is noted, then passed to `handle`, which may raise. With `second_kills` the next one ends the process
    at once. Only the main thread may set handlers: in any other, nothing is noted.
    """
    received: list[int] = []
    former: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if second_kills:
            for other in former:
                signal.signal(other, signal.SIG_DFL)
        if handle:
            handle(number)

    if threading.current_thread() is threading.main_thread():
        former = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def lock(path: Path, owner: str, *, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel releases it when this process ends.

    If another process holds it, wait, or raise LockedError, whose message says that `owner` is already running.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise locked_error(path, owner) from None
        file.truncate(0)
        json.dump({"pid": os.getpid(), "since": time.strftime("%H:%M:%S")}, file)
        file.flush()
        yield
        file.truncate(0)


def locked_error(path: Path, owner: str) -> LockedError:
    """The error that names the process that holds the lock at `path`."""
    return LockedError(f"{owner} is already running{_holder(path)}", "wait for it to end, or stop that process")


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`."""
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
