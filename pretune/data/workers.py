"""Work on many chunks at once, with results in order: in threads, or on the Ray cluster that PRETUNE_CLUSTER names.

The result for a chunk depends on the chunk alone. So results are the same wherever and however often the work is done,
and the work of a process or machine that is lost is done again.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pretune.cluster.connection import CLUSTER, connect
from pretune.errors import PretuneError, StageFailedError, WorkspaceError

CHUNK = 1024  # rows
THREADS = 2  # one works while the other waits for the interpreter lock
PACKAGES = ("numpy", "tokenizers", "ray")  # results could depend on their versions

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
Submit = Callable[[Any], Callable[[], Any]]  # from a chunk to a function that waits for its result


def in_order(work: Callable[[Chunk], Result], chunks: Iterable[Chunk]) -> Iterator[Result]:
    """Yield `work(chunk)` for each chunk, in order, while the next chunks are being worked on.

    `work` has to be a function of the chunk alone and thread-safe; for a cluster it has to be picklable.
    """
    with _workers(work) as (submit, ahead):
        pending: deque[Callable[[], Result]] = deque()
        for chunk in chunks:
            pending.append(submit(chunk))
            if len(pending) > ahead:
                yield pending.popleft()()
        while pending:
            yield pending.popleft()()


def chunked(items: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """The items in lists of CHUNK, the last one shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def by_length(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Lists of consecutive texts, each of `characters` or a little more; the last one has the rest."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def _workers(work: Callable[[Any], Any]) -> Iterator[tuple[Submit, int]]:
    """A function that submits a chunk, and how many chunks to submit ahead of the one whose result is awaited."""
    if ray := connect():
        reference, task, expected = ray.put(work), ray.remote(_run), _environment()
        cores = int(ray.cluster_resources().get("CPU", 1))
        yield lambda chunk: partial(_result, ray, task.remote([reference], expected, chunk)), 2 * cores
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            yield lambda chunk: pool.submit(work, chunk).result, THREADS


def _result(ray: Any, reference: Any) -> Any:
    """Wait for the result of a chunk, or raise the error of its work."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, PretuneError) else error) from None
    except ray.exceptions.RayError as error:
        raise StageFailedError(
            f"the cluster at {os.environ[CLUSTER]} lost the same chunk of work several times: {error}",
            "ray status   (shows its nodes), then: pretune run   (continues where it stopped)",
        ) from None


_last_work: dict[str, Callable[[Any], Any]] = {}  # in a worker process of the cluster: the last work, unpickled once


def _run(references: list[Any], expected: str, chunk: Any) -> Any:
    """Do the work on a chunk in a worker process of the cluster.

    `references` holds the reference to the work: Ray would resolve one that is an argument by itself.
    """
    if _environment() != expected:
        raise WorkspaceError(
            f"{socket.gethostname()}, a machine of the cluster, has {_environment()}; here there is {expected}",
            "use the same commit and `make setup` on all machines of the cluster, then start Ray there again",
        )
    import ray

    key = references[0].hex()
    if key not in _last_work:
        _last_work.clear()
        _last_work[key] = ray.get(references[0])
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # this process has one core
    return _last_work[key](chunk)


@cache
def _environment() -> str:
    """The versions that have to be the same on all machines for the results to be the same."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"Python {platform.python_version()}, {packages}, code {code.hexdigest()[:12]}"
