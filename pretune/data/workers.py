"""Work on many chunks at once, results in order: in threads here, or on the Ray cluster that PRETUNE_CLUSTER names.

What is done to a chunk depends on that chunk alone. So results are the same wherever, beside whatever and
however often it is done: a chunk whose process or machine is lost is done again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pretune.errors import PretuneError, StageFailedError, WorkspaceError

CLUSTER = "PRETUNE_CLUSTER"
CHUNK = 1024  # rows that are worked on together
THREADS = 2  # one works while the other waits for the interpreter
SECONDS = 10  # that a cluster has to answer within
PACKAGES = ("numpy", "tokenizers", "ray")  # those that results could depend on

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
Begin = Callable[[Any], Callable[[], Any]]  # from a chunk to what waits for its result


def in_order(work: Callable[[Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
    """Yield `work(chunk)` for each chunk, in their order, while the next ones are being worked on.

    `work` has to be a function of the chunk, safe in threads; for a cluster one that can be pickled.
    """
    with _workers(work) as (begin, ahead):
        pending: deque[Callable[[], Result]] = deque()
        for chunk in chunks:
            pending.append(begin(chunk))
            if len(pending) > ahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


def chunked(items: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """The items in lists of CHUNK, the last one shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


@contextmanager
def _workers(work: Callable[[Any], Any]) -> Iterator[tuple[Begin, int]]:
    """What begins work on a chunk, and how many chunks are to be begun ahead of the one that is waited for."""
    if ray := join():
        sent, task, expected = ray.put(work), ray.remote(_done), _same()
        cores = int(ray.cluster_resources().get("CPU", 1))
        yield lambda chunk: partial(_result, ray, task.remote([sent], expected, chunk)), 2 * cores
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            yield lambda chunk: pool.submit(work, chunk).result, THREADS


def join() -> Any:
    """Connect with the cluster that PRETUNE_CLUSTER names and return `ray`; None where it names none.

    Raises WorkspaceError where Ray is not installed or the cluster does not answer.
    """
    address = os.environ.get(CLUSTER)
    if not address:
        return None
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # read when it loads
    try:
        import ray
    except ModuleNotFoundError:
        raise WorkspaceError(
            f"{CLUSTER} is {address}, and Ray is not installed",
            f"pip install 'pretune[cluster]'   (or: unset {CLUSTER})",
        ) from None
    if not ray.is_initialized():
        _connect(ray, address)
    return ray


def _connect(ray: Any, address: str) -> None:
    """Ray takes over SIGTERM, which is ours: give it back."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray has no class of its own for it
        reason = [*str(error).strip().splitlines(), type(error).__name__][0]
        raise WorkspaceError(
            f"{CLUSTER}: the Ray cluster {address} cannot be joined ({reason})",
            f"ray start --head, on this machine, and {CLUSTER}=auto   (or: unset {CLUSTER})",
        ) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Raise OSError where nothing listens at HOST:PORT: Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), SECONDS).close()


def _result(ray: Any, reference: Any) -> Any:
    """The result of a chunk, or the error that it led to."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, PretuneError) else error) from None
    except ray.exceptions.RayError as error:
        raise StageFailedError(
            f"the cluster at {os.environ[CLUSTER]} lost a piece of work again and again: {error}",
            "ray status   (what it has), then: pretune run   (goes on where it stopped)",
        ) from None


_works: dict[str, Callable[[Any], Any]] = {}  # in a process of the cluster: the last work, opened once


def _done(sent: list[Any], expected: str, chunk: Any) -> Any:
    """Do a piece of work, in a process of the cluster. `sent` says where the work lies; in a list it stays there."""
    if _same() != expected:
        raise WorkspaceError(
            f"{socket.gethostname()}, a machine of the cluster, has {_same()}; here there is {expected}",
            "the same commit and `make setup` on all machines of the cluster, then start Ray there again",
        )
    import ray

    key = sent[0].hex()
    if key not in _works:
        _works.clear()
        _works[key] = ray.get(sent[0])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this process was given one core
    return _works[key](chunk)


@cache
def _same() -> str:
    """What has to be the same on all machines for results to be."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {packages}, code {code.hexdigest()[:12]}"
